"""An arena in the memory of a bytearray."""

from __future__ import annotations

import mmap

import numpy as np

from kvpool.arena import MIN_ALIGNMENT, Arena, ArenaInfo
from kvpool.errors import ArenaError, InvalidOptionError

__all__ = ["BytearrayArena", "create"]


class BytearrayArena(Arena):
    """An arena over a part of a bytearray.

    A view keeps the bytearray, so `close` lets go of it and pulls nothing from under a view.
    """

    def __init__(self, memory: memoryview, info: ArenaInfo) -> None:
        self._memory: memoryview | None = memory
        self._info = info

    @property
    def info(self) -> ArenaInfo:
        """What this arena is."""
        return self._info

    @property
    def buffer(self) -> memoryview:
        """All bytes; a fresh memoryview, so that a caller may release it."""
        self._check_process()
        if self._memory is None:
            raise ArenaError(f"the template arena of {self._info.size} bytes is closed")
        return self._memory[:]

    def close(self) -> None:
        """Let go of the memory."""
        self._memory = None


def create(size: int, *, alignment: object = MIN_ALIGNMENT) -> BytearrayArena:
    """Create an arena.

    Parameters
    ----------
    size : int
        Bytes; kvpool has checked that it is at least 1.
    alignment : int
        The base address is a multiple of it; a power of two, at least 64.

    Raises
    ------
    InvalidOptionError
        `alignment` is not a power of two of at least 64.
    ArenaError
        There is not enough memory.
    """
    if not isinstance(alignment, int) or alignment.bit_count() != 1 or alignment < MIN_ALIGNMENT:
        raise InvalidOptionError(
            f"alignment must be a power of two, at least {MIN_ALIGNMENT}, got {alignment!r}"
        )
    try:
        memory = memoryview(bytearray(size + alignment))
    except (MemoryError, OverflowError) as error:
        raise ArenaError(f"cannot create a template arena of {size} bytes: {error}") from error
    start = -np.frombuffer(memory, dtype=np.uint8).ctypes.data % alignment
    info = ArenaInfo(backend="template", size=size, page_size=mmap.PAGESIZE, alignment=alignment)
    return BytearrayArena(memory[start : start + size], info)
