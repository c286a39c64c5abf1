from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from kvpool.manager import KVCacheManager
from kvpool.serving import Engine
from tests.support import needs
from tests.support.managers import make_manager, manager
from tests.support.real_model import small_model_directory
from tests.support.sessions import Clock

__all__ = ["make_manager", "manager", "small_model_directory"]

MakeEngine = Callable[..., Engine]


@pytest.fixture(scope="session")
def lab() -> Any:
    """The module `tests.support.engines`, which imports torch and transformers."""
    needs.transformers()
    return importlib.import_module("tests.support.engines")


@pytest.fixture
def make_engine(lab: Any, manager: KVCacheManager) -> Iterator[MakeEngine]:
    """Make engines with the tiny model, which are stopped when the test ends.

    Then no session is open that an engine opened, and the books of the manager are right.
    """
    with ExitStack() as stack:

        def make(of: KVCacheManager | None = None, **options: Any) -> Engine:
            manager_of = manager if of is None else of
            engine: Engine = lab.make_engine(manager_of, **options)
            stack.callback(lab.check, engine, manager_of)
            return engine

        yield make


@pytest.fixture
def engine_clock(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of all engines of the test, which stands still until the test moves it."""
    for module in ("_answers", "_engine", "_loop"):
        time = SimpleNamespace(monotonic=clock)
        monkeypatch.setattr(f"kvpool.serving.{module}.time", time)
    return clock


@pytest.fixture
def gate(lab: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A gate before the steps of all engines of the test, open at first; see `Gate`."""
    model = importlib.import_module("kvpool.serving._model").ServedModel
    gate = lab.Gate(model.step)
    monkeypatch.setattr(model, "step", functools.partialmethod(gate))
    yield gate
    gate.open()
