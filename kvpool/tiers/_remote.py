"""`RemoteTier`: what the tiers of other processes and machines share."""

from __future__ import annotations

import threading
import weakref
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

from kvpool._process import ForkAware, current, forget_forks, in_child_of, watch_forks
from kvpool.errors import TierError
from kvpool.tiers._base import Tier
from kvpool.tiers._gate import Gate

__all__ = ["RemoteTier"]


class RemoteTier(Tier, ForkAware):
    """A tier that other processes use as well, through a client that any thread may call.

    Parameters
    ----------
    name : str
        See `Tier.name`.
    patience : float
        Seconds that `close` waits for calls of other threads.
    """

    def __init__(self, name: str, patience: float) -> None:
        self._name = name
        self._patience = patience
        self._refused = 0
        self._is_closed = False
        self._pid = current.pid
        self._lock = threading.Lock()
        self._gate = Gate()
        watch_forks(weakref.ref(self, forget_forks))

    def _enter_child(self) -> None:
        self._lock = threading.Lock()
        self._gate = Gate()

    @property
    def name(self) -> str:
        """What messages and tables call the tier."""
        return self._name

    def close(self) -> None:
        """Let go of the store, after calls of other threads have ended."""
        if self._pid != current.pid:
            return
        with self._lock:
            was_closed, self._is_closed = self._is_closed, True
        if not was_closed:
            with self._gate.alone(self._patience):
                self._disconnect()

    @abstractmethod
    def _disconnect(self) -> None:
        """Let go of the client."""

    @contextmanager
    def _call(self) -> Iterator[None]:
        """Make one call of the client."""
        self._check_open()
        gate, visit = self._gate, object()
        try:
            gate.enter(visit)
            self._check_open()
            yield
        finally:
            gate.inside.pop(visit, None)

    def _check_open(self) -> None:
        if self._pid != current.pid:
            raise in_child_of(self._pid, "tier")
        if self._is_closed:
            raise TierError(f"the tier {self._name!r} is closed")

    def _count_refused(self, count: int) -> None:
        with self._lock:
            self._refused += count
