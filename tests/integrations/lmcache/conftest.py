from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support import needs

__all__ = ["MakeCalls", "make", "parts"]

MakeCalls = Callable[..., Any]


@pytest.fixture(scope="session")
def parts() -> Any:
    """The module `tests.support.lmcache_parts`, which imports lmcache."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lmcache and what it imports warn of themselves
        needs.lmcache()
        return importlib.import_module("tests.support.lmcache_parts")


@pytest.fixture
def make(parts: Any) -> Iterator[MakeCalls]:
    """Makes an adapter through LMCache's factory, and calls it; it is closed at the end."""
    made: list[Any] = []

    def make_one(params: dict[str, Any]) -> Any:
        made.append(parts.Calls(parts.adapter_of(params)))
        return made[-1]

    yield make_one
    for calls in made:
        calls.adapter.close()
