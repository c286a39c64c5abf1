from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

import kvpool.backends
from kvpool.arena import ArenaBackend
from kvpool.plugins import PluginRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path; the modules in it are forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("KVPOOL_BACKEND", raising=False)
    monkeypatch.delenv("KVPOOL_DISABLED_BACKENDS", raising=False)
    yield tmp_path
    for source in tmp_path.glob("**/*.py"):
        sys.modules.pop(source.stem, None)


@pytest.fixture
def registry(folder: Path) -> PluginRegistry[ArenaBackend]:
    """A registry of backends that has found nothing yet."""
    assert folder.is_dir()
    return PluginRegistry(kvpool.backends.registry.kind)
