"""An arena in the memory of a NumPy array."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

import numpy as np

from kvpool.arena import Arena, ArenaInfo
from kvpool.errors import ArenaError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["NumpyArena", "create"]


class NumpyArena(Arena):
    """An arena over an array; see `Arena` for the contract.

    The array dies with the last view over it, so `close` only lets go of it.
    """

    def __init__(self, array: NDArray[np.uint8], info: ArenaInfo) -> None:
        self._array: NDArray[np.uint8] | None = array
        self._info = info

    @property
    def info(self) -> ArenaInfo:
        """What this arena is."""
        return self._info

    @property
    def buffer(self) -> memoryview:
        """All bytes."""
        self._check_process()
        if self._array is None:
            raise ArenaError(f"the numpy arena of {self._info.size} bytes is closed")
        return self._array.data

    def close(self) -> None:
        """Let go of the array."""
        self._array = None


def create(size: int) -> NumpyArena:
    """Create an arena of `size` zero bytes that starts at a page boundary.

    Parameters
    ----------
    size : int
        Bytes.

    Returns
    -------
    NumpyArena

    Raises
    ------
    ArenaError
        There is not enough memory.

    Notes
    -----
    NumPy aligns to 16 bytes, so the array has one page more than asked for, and the arena
    starts at the first page boundary in it. `numpy.zeros` takes zero pages from the system,
    which most systems back with memory at the first touch.
    """
    page_size = mmap.PAGESIZE
    try:
        array = np.zeros(size + page_size, dtype=np.uint8)
    except (MemoryError, ValueError) as error:
        raise ArenaError(f"cannot create a numpy arena of {size} bytes: {error}") from error
    start = -array.ctypes.data % page_size
    info = ArenaInfo(backend="numpy", size=size, page_size=page_size, alignment=page_size)
    return NumpyArena(array[start : start + size], info)
