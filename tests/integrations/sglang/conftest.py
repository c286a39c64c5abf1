from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import StandInFinder
from tests.support import needs

__all__ = ["MakeStorage", "make", "parts"]

# What the modules of SGLang's pools in host memory import and never call here: kernels for GPUs,
# and companions of torch whose builds on the package index do not fit a torch for CPUs.
NOT_CALLED = ("sgl_kernel", "torchaudio", "torchvision")

MakeStorage = Callable[..., Any]


@pytest.fixture(scope="session")
def parts() -> Any:
    """The module `tests.support.sglang_parts`, which imports sglang."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sglang and what it imports warn of themselves
        needs.sglang()
        # After sglang, because transformers asks for the version of what it finds.
        sys.meta_path.append(StandInFinder(NOT_CALLED, Path("/"), ()))
        return importlib.import_module("tests.support.sglang_parts")


@pytest.fixture
def make(parts: Any) -> Iterator[MakeStorage]:
    """Makes a storage through SGLang's factory; it is closed at the end."""
    made: list[Any] = []

    def make_one(
        options: dict[str, Any], pool: Any = None, further: Sequence[Any] = (), **config: Any
    ) -> Any:
        made.append(parts.make_storage(options, pool, further, **config))
        return made[-1]

    yield make_one
    for one in made:
        one.close()
