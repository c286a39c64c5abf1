"""`MemoryBlock`: a range of a pool's arena, as handed out by `MemoryPool.allocate`."""

from __future__ import annotations

import math
import operator
import weakref
from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import DTypeLike, NDArray

from kvpool.arena import ArenaFork
from kvpool.errors import InvalidSizeError, InvalidViewError
from kvpool.pool._pages import PageRuns

__all__ = ["Bytes", "MemoryBlock", "RootRef", "as_int", "is_leased", "view_geometry"]

Bytes = NDArray[np.uint8]


class RootRef(weakref.ref[Bytes]):
    """A weak reference to the root array of a block's views, which knows the block.

    Every view of a block has the root array at the end of its `base` chain, so the root
    lives exactly as long as the block is leased.
    """

    __slots__ = ("block",)
    block: MemoryBlock


class MemoryBlock:
    """A range of bytes that belongs to whoever allocated it, until it is deallocated.

    Blocks are made by `MemoryPool.allocate` and compared by identity: a block that was
    deallocated never equals a later one, even at the same offset.

    Attributes
    ----------
    offset : int
        Bytes from the start of the arena.
    size : int
        Bytes asked for.
    charged : int
        Bytes that the pool counts as used for it: `size` rounded up to the granule, or what
        is committed of a block that was reserved.
    runs : PageRuns or None
        Which pages are committed; None where all are, from the start.
    base : MemoryBlock or None
        The block whose pages this one shows until it writes its own, if it is a fork.
    """

    __slots__ = (
        "_ended",
        "_fork",
        "_pool_id",
        "_root",
        "_shares",
        "base",
        "charged",
        "offset",
        "runs",
        "size",
    )

    def __init__(self, offset: int, size: int, pool_id: int) -> None:
        self.offset = offset
        self.size = size
        self.charged = 0
        self.runs: PageRuns | None = None
        self.base: MemoryBlock | None = None
        self._pool_id = pool_id
        self._root: RootRef | None = None
        self._ended = False  # whether it has lost its owner
        self._fork: ArenaFork | None = None  # the mapping of a fork
        self._shares = NO_FORKS  # forks, and the bytes of each run they read

    @property
    def lent(self) -> int:
        """Bytes at the start of each run that forks show of this block."""
        if not self._shares:
            return 0  # as for most blocks
        return max(self._shares.values(), default=0)  # in one go: forks end in other threads

    def add_fork(self, fork: MemoryBlock, nbytes: int) -> None:
        """Note a fork that shows so many bytes at the start of each run."""
        if not self._shares:
            self._shares = {}
        self._shares[fork] = nbytes

    def __repr__(self) -> str:
        return f"MemoryBlock(offset={self.offset}, size={self.size})"


NO_FORKS: dict[MemoryBlock, int] = {}
"""What a block without forks has, so that many blocks need not have as many of them."""


def is_leased(block: MemoryBlock) -> bool:
    """Tell whether a view of the block is alive."""
    return block._root is not None and block._root() is not None


def as_int(name: str, value: Any) -> int:
    """Return `value` as an int; InvalidSizeError where it is no whole number."""
    try:
        return operator.index(value)
    except TypeError:
        raise InvalidSizeError(f"{name} must be a whole number of bytes, not {value!r}") from None


def view_geometry(
    block: MemoryBlock,
    dtype: DTypeLike,
    shape: SupportsIndex | Sequence[SupportsIndex],
    offset: int,
) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """Return dtype, shape and offset of a view that lies inside the block; raise else."""
    type_: np.dtype[Any] = np.dtype(dtype)
    given = shape if isinstance(shape, Sequence) else (shape,)
    dims = tuple(as_int("a dimension of shape", dim) for dim in given)
    start = as_int("offset", offset)
    if type_.hasobject or not type_.itemsize:
        raise InvalidViewError(f"dtype {type_} cannot lie in plain bytes")
    if any(dim < 0 for dim in dims):
        raise InvalidViewError(f"shape {dims} has a negative dimension")
    if start % type_.alignment:
        raise InvalidViewError(
            f"offset {start} is misaligned: {type_} needs a multiple of {type_.alignment}"
        )
    end = start + math.prod(dims) * type_.itemsize
    if start < 0 or end > block.size:
        raise InvalidViewError(
            f"{type_}{list(dims)} at offset {start} needs the bytes [{start}, {end}) "
            f"of a block of {block.size}"
        )
    return type_, dims, start
