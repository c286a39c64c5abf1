"""`NewTokens` and `StagedTokens`: where the next tokens of an entry are written in place."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from types import TracebackType
from typing import Any, Self

from numpy.typing import NDArray

from kvpool.layout import EntryGeometry
from kvpool.pool import Bytes, MemoryBlock

__all__ = ["NewTokens", "Place", "StagedTokens"]

Place = tuple[Bytes, EntryGeometry, int]
"""The bytes of an entry, their geometry, and the position of the first token to write."""


class NewTokens:
    """The place of new tokens of one layer; `KVCacheEntry.writing` makes it for a ``with`` block.

    Unpacks to two arrays of shape (kv_heads, count, head_dim), one for the keys and one for the
    values. They may hold anything until they are written.

    Attributes
    ----------
    root : ndarray of uint8
        All bytes of the entry, until the block ends. This is the same array as before for as
        long as a lease lives, unless the entry was moved to another block or gave up pages that
        it shared with its forks. Only the tokens held may be read through it, and only the new
        ones written: the budget does not know of other pages.
    geometry : EntryGeometry
        Where everything lies in `root`.
    layer, start, count : int
        The tokens have the positions ``start`` to ``start + count - 1`` of this layer.
    """

    # The generator holds the lock of the entry by a plain `with`, so an interrupt at any moment
    # lets go of it. `contextlib.contextmanager` would do the same for twice the time.
    __slots__ = ("_steps", "count", "geometry", "layer", "root", "start")

    def __init__(self, layer: int, count: int, steps: Generator[Place, None, None]) -> None:
        self.layer = layer
        self.count = count
        self._steps = steps

    def __enter__(self) -> Self:
        self.root, self.geometry, self.start = next(self._steps)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        del self.root  # what the caller keeps of this is not a lease
        if kind is None:
            next(self._steps, None)
        else:
            self._steps.close()

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return iter(self.geometry.layer_view(self.root, self.layer, self.start, self.count))


class StagedTokens:
    """The place of new tokens of all layers, from `KVCacheEntry.stage`; a lease.

    Attributes
    ----------
    root : ndarray of uint8
        All bytes of the entry. Only the tokens held may be read through it, and only the new ones
        written.
    geometry : EntryGeometry
        Where everything lies in `root`.
    start, count : int
        The tokens have the positions ``start`` to ``start + count - 1``.
    block : MemoryBlock
        Of the entry, when the tokens were staged.
    """

    __slots__ = ("block", "count", "geometry", "root", "start")

    def __init__(self, place: Place, count: int, block: MemoryBlock) -> None:
        self.root, self.geometry, self.start = place
        self.count = count
        self.block = block
