"""A gate before the forwards of a model, so that a test decides when they happen."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["ModelGate", "hooked"]

_PATIENCE = 60  # seconds, only so that a test that is wrong has an end


class ModelGate:
    """Holds forwards up until it is opened. Put it before a model by `hooked`."""

    def __init__(self) -> None:
        self._opened = threading.Event()
        self._arrived = threading.Event()

    def __call__(self) -> None:
        self._arrived.set()
        assert self._opened.wait(_PATIENCE)

    def open(self) -> None:
        """Let all forwards pass from now on."""
        self._opened.set()

    def wait(self) -> None:
        """Wait until a forward has come."""
        assert self._arrived.wait(_PATIENCE)


@contextmanager
def hooked(model: Any, act: Callable[[], object]) -> Iterator[None]:
    """Call a function before each forward of a model."""
    handle = model.register_forward_pre_hook(lambda *_: act() and None)
    try:
        yield
    finally:
        if isinstance(act, ModelGate):
            act.open()
        handle.remove()
