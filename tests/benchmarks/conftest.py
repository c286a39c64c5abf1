from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.scratch_benchmarks import MakePackage

_numbers = itertools.count()


@pytest.fixture
def make_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakePackage]:
    """Write packages of benchmarks, which are gone after the test."""
    names = []

    def make(**texts: str) -> ModuleType:
        names.append(f"scratch_benchmarks_{next(_numbers)}")
        directory = tmp_path / names[-1]
        directory.mkdir()
        (directory / "__init__.py").write_text("", encoding="utf-8")
        for name, text in texts.items():
            (directory / f"{name}.py").write_text(text, encoding="utf-8")
        importlib.invalidate_caches()
        return importlib.import_module(names[-1])

    monkeypatch.syspath_prepend(tmp_path)
    yield make
    for module in [one for one in sys.modules if one.partition(".")[0] in names]:
        del sys.modules[module]
