"""The tier ``memory``: values in a dict of this process, for tests and as an example."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from kvpool._checks import byte_count
from kvpool._process import ForkAware, current, forget_forks, in_child_of, watch_forks
from kvpool.errors import TierError
from kvpool.hookspecs import hookimpl
from kvpool.tiers._base import Item, Tier, TierFactory, TierStats, check_items, check_keys
from kvpool.tiers._registry import capacity_option

__all__ = ["MemoryTier", "kvpool_tier"]


class MemoryTier(Tier, ForkAware):
    """Keeps values in memory, and evicts the least recently used ones when it is full.

    Parameters
    ----------
    capacity : int, optional
        The most bytes of all values. [default: no limit]

    Raises
    ------
    InvalidSizeError
        `capacity` is not a whole number of at least 1.
    """

    def __init__(self, capacity: int | None = None) -> None:
        self._capacity = None if capacity is None else byte_count("capacity", capacity, least=1)
        self._values: OrderedDict[bytes, bytes] = OrderedDict()  # the least recently used first
        self._nbytes = self._evicted = self._refused = 0
        self._is_closed = False
        self._pid = current.pid
        self._lock = threading.Lock()
        watch_forks(weakref.ref(self, forget_forks))

    def _enter_child(self) -> None:
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """What messages and tables call the tier."""
        return "memory:"

    @property
    def evictions(self) -> int:
        """How many values this object has evicted to make room."""
        return self._evicted

    @contextmanager
    def read(self, keys: Sequence[bytes], /) -> Iterator[Sequence[memoryview | None]]:
        """Return the values of some keys, for a ``with`` block; see `Tier.read`."""
        check_keys(keys)
        with self._lock:
            self._check_open()
            values = [self._values.get(key) for key in keys]
            self._note(key for key, value in zip(keys, values, strict=True) if value is not None)
        yield [None if value is None else memoryview(value) for value in values]

    def write(self, items: Sequence[Item], /) -> int:
        """Store values, and return how many of them are there now; see `Tier.write`."""
        checked = check_items(items)
        with self._lock:
            self._check_open()
            self._add(checked)
            return sum(key in self._values for key, _, _ in checked)

    def contains(self, keys: Sequence[bytes], /) -> int:
        """Return how many values are there, from the first key on; see `Tier.contains`."""
        check_keys(keys)
        with self._lock:
            self._check_open()
            return next(
                (count for count, key in enumerate(keys) if key not in self._values), len(keys)
            )

    def remove(self, keys: Sequence[bytes], /) -> int:
        """Remove values; return how many of them were there."""
        check_keys(keys)
        with self._lock:
            self._check_open()
            removed = [value for key in keys if (value := self._values.pop(key, None)) is not None]
            self._nbytes -= sum(map(len, removed))
            return len(removed)

    def keys(self, prefix: bytes = b"", /) -> Iterator[bytes]:
        """Return an iterator of the keys that begin with some bytes."""
        with self._lock:
            self._check_open()
            return iter([key for key in self._values if key.startswith(prefix)])

    def stats(self) -> TierStats:
        """Return what the tier holds."""
        with self._lock:
            self._check_open()
            return TierStats(
                values=len(self._values),
                nbytes=self._nbytes,
                capacity=self._capacity,
                evicted=self._evicted,
                refused=self._refused,
            )

    def close(self) -> None:
        """Forget all values."""
        with self._lock:
            self._is_closed = True
            self._values.clear()
            self._nbytes = 0

    def _check_open(self) -> None:
        if self._pid != current.pid:
            raise in_child_of(self._pid, "tier")
        if self._is_closed:
            raise TierError("the tier 'memory:' is closed")

    def _note(self, keys: Iterable[bytes]) -> None:
        """Note that values were used."""
        for key in keys:
            self._values.move_to_end(key)

    def _add(self, items: Iterable[tuple[bytes, Sequence[memoryview], int]]) -> None:
        """Store values that are not there and have room; note a use of the others."""
        for key, parts, nbytes in items:
            if key in self._values:
                self._values.move_to_end(key)
            elif self._make_room(nbytes):
                self._values[key] = b"".join(parts)
                self._nbytes += nbytes

    def _make_room(self, nbytes: int) -> bool:
        """Evict until a value of this size fits; return False if it never would."""
        if self._capacity is None:
            return True
        if nbytes > self._capacity:
            self._refused += 1
            return False
        while self._nbytes + nbytes > self._capacity:
            _, value = self._values.popitem(last=False)
            self._nbytes -= len(value)
            self._evicted += 1
        return True


def _open(url: str, *, capacity: str | None = None) -> Tier:
    """Open a tier for a URL, in which nothing but the scheme is used."""
    del url
    return MemoryTier(capacity_option(capacity))


@hookimpl
def kvpool_tier() -> TierFactory:
    """Describe the tier to kvpool."""
    return TierFactory(
        open=_open,
        summary="a dict in this process, for tests",
        options={"capacity": "the most bytes of all values, for example 64MiB"},
    )
