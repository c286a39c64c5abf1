from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from kvpool.manager import KVCacheManager
from tests.support import needs
from tests.support.managers import make_manager, manager
from tests.support.served import Served, serving

__all__ = ["make_manager", "manager"]

Serve = Callable[..., Served]


@pytest.fixture(scope="session")
def lab() -> Any:
    """The module `tests.support.engines`, which imports torch and transformers."""
    needs.transformers()
    return importlib.import_module("tests.support.engines")


@pytest.fixture
def serve(lab: Any, manager: KVCacheManager) -> Iterator[Serve]:
    """Serve the tiny model; at the end no session is open, and the books are right."""
    with ExitStack() as stack:

        def start(engine_options: Any = None, **options: Any) -> Served:
            engine = lab.make_engine(manager, **(engine_options or {}))
            stack.callback(engine.close, drain=False)
            return stack.enter_context(serving(engine, manager, **options))

        yield start
    assert not any(manager.is_open(key) for key in manager.session_keys())
    manager.check_integrity()


@pytest.fixture
def served(serve: Serve) -> Served:
    return serve()
