"""What a pool is made of, seen without its private parts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np

from kvpool.errors import PoolExhaustedError
from kvpool.pool import Bytes, MemoryBlock, MemoryPool

__all__ = ["all_bytes", "under_the_lock", "used_now"]


def all_bytes(pool: MemoryPool) -> Bytes:
    """Return the bytes of the whole arena, those that no block has as well; it is not a lease.

    A block is allocated for it, and given back.
    """
    block = pool.allocate(1)
    shown: Any = pool.lease(block).base
    pool.deallocate(block)
    # Past the class of `shown`, whose own `base` leads nowhere.
    arena: Any = vars(np.ndarray)["base"].__get__(shown)
    assert arena.nbytes > shown.nbytes
    return np.asarray(arena)


def used_now(pool: MemoryPool) -> int:
    """Return the bytes that are charged, without a call that would reap ended leases first."""
    found = re.search(r"(\d+) used", repr(pool))
    assert found is not None, pool
    return int(found[1])


def under_the_lock(pool: MemoryPool, act: Callable[[], object]) -> None:
    """Call `act` while this thread holds the lock of a pool in which something is charged.

    A pool takes victims under its lock.
    """
    called = False

    def victims() -> Iterator[MemoryBlock]:
        nonlocal called
        called = True
        act()
        yield from ()

    with suppress(PoolExhaustedError):
        pool.make_room(pool.capacity, victims())
    assert called
