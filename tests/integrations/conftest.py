from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from kvpool.manager import KVCacheManager
from tests.support import needs
from tests.support.managers import MakeManager


@pytest.fixture(scope="session")
def hf() -> Any:
    """The module `tests.support.hf`, which imports torch and transformers."""
    needs.transformers()
    return importlib.import_module("tests.support.hf")


@pytest.fixture
def make_manager() -> Iterator[MakeManager]:
    """Make managers that are checked and closed when the test ends."""
    with ExitStack() as stack:

        def make(capacity: int = 1 << 24, backend: str = "numpy", **options: Any) -> KVCacheManager:
            manager = KVCacheManager(capacity, backend, receipts=False, **options)
            stack.enter_context(manager)
            stack.callback(manager.check_integrity)
            return manager

        yield make


@pytest.fixture
def manager(make_manager: MakeManager) -> KVCacheManager:
    return make_manager()
