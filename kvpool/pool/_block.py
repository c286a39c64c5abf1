"""`MemoryBlock`: a range of a pool's arena, as handed out by `MemoryPool.allocate`."""

from __future__ import annotations

import enum
import math
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, SupportsIndex

import numpy as np
from numpy.typing import DTypeLike, NDArray

from kvpool._checks import byte_count, whole_number
from kvpool.arena import ArenaFork
from kvpool.errors import ForeignBlockError, InvalidViewError
from kvpool.pool._pages import CommittedPages

__all__ = [
    "DRAINING",
    "GONE",
    "LIVE",
    "ArenaBytes",
    "BlockState",
    "Bytes",
    "MemoryBlock",
    "RootRef",
    "not_a_block",
    "view_geometry",
]

Bytes = NDArray[np.uint8]


class BlockState(enum.Enum):
    """Where a block is in its life; it only ever goes forward."""

    LIVE = enum.auto()
    """It has an owner."""
    DRAINING = enum.auto()
    """It was deallocated, and a view or a fork still needs its bytes."""
    GONE = enum.auto()
    """Its bytes are free."""


# Bound once: a lookup of a member in its class costs more than the comparison.
LIVE: Final = BlockState.LIVE
DRAINING: Final = BlockState.DRAINING
GONE: Final = BlockState.GONE

_ARRAY: Final = np.ndarray
_BYTE: Final[np.dtype[np.uint8]] = np.dtype(np.uint8)  # NumPy looks a scalar type up at each call


class ArenaBytes(np.ndarray[tuple[int], np.dtype[np.uint8]]):
    """All bytes of an arena, or those of one block, without a way from the block to the arena.

    A root array has the bytes of its block as its `base`, in an array of this type. There the
    chain ends, so a view of one session does not lead to the bytes of the others.
    """

    # NumPy shortens a chain of arrays, but not across a change of type. So the root array must be
    # made of a slice of such an array: a view of the root array then keeps the root array.

    @property
    def base(self) -> None:
        """None, although the memory belongs to the arena."""
        return None


class RootRef(weakref.ref[Bytes]):
    """A weak reference to the root array of a block's views, which knows the block.

    Every view of a block has the root array at the end of its `base` chain, so the root
    lives exactly as long as the block is leased.

    Attributes
    ----------
    block : MemoryBlock or None
        None once the root array is dead and the pool has drawn the consequence. Else this
        reference and the block would keep each other.
    """

    __slots__ = ("block",)
    block: MemoryBlock | None


class MemoryBlock:
    """A range of bytes that belongs to the caller who allocated it, until it is deallocated.

    Blocks are made by `MemoryPool.allocate` and compared by identity: a block that was
    deallocated never equals a later one, even at the same offset.

    Attributes
    ----------
    offset : int
        Bytes from the start of the arena.
    size : int
        Bytes asked for.
    charged : int
        Bytes that the pool counts as used for the block: `size` rounded up to the granule, or
        the committed pages of a block that was reserved in an elastic pool.
    pages : CommittedPages or None
        The committed pages; None if all bytes of the block are charged from the start.
    state : BlockState
        Live, draining or gone.
    pool_id : int
        Which pool of this process the block belongs to.
    root_ref : RootRef or None
        The latest root array of the block's views; None if there was never a view.
    owner : object
        What the caller who took the block named as its owner, or the owner of the block that this
        one was forked from; None if that is not known.
    """

    # Only the pool changes a block, under its lock. `MemoryPool.check_integrity` proves:
    #   state       every block that the pool knows is LIVE or DRAINING; all others are GONE
    #   charged     == pages.charged, or `size` rounded up to the granule if pages is None
    #   fork        a block has a mapping if and only if it has a parent
    #   children    every child is known to the pool, and `child.parent is self`
    #   shared      _children[child] >= child.pages.inherited_bytes
    #   lengths     _lengths counts the values of _children
    #   ownership   the pool keeps parents alive: a child refers to its parent weakly, so that
    #               a pool without references is freed at once, with the mappings of its forks

    __slots__ = (
        "__weakref__",
        "_children",
        "_lengths",
        "_mapping",
        "_parent",
        "_private",
        "charged",
        "offset",
        "owner",
        "pages",
        "pool_id",
        "root_ref",
        "size",
        "state",
    )

    def __init__(self, offset: int, size: int, pool_id: int, owner: object = None) -> None:
        self.offset = offset
        self.size = size
        self.pool_id = pool_id
        self.owner = owner
        self.charged = 0
        self.pages: CommittedPages | None = None
        self.state = LIVE
        self.root_ref: RootRef | None = None
        self._parent: weakref.ref[MemoryBlock] | None = None
        self._mapping: ArenaFork | None = None  # the private mapping of a fork
        self._private: Bytes | None = None  # its bytes, from the first view on
        self._children = _NO_CHILDREN  # forks, and the bytes of each stripe that they read
        self._lengths = _NO_LENGTHS  # and how many read so many bytes: thousands may be equal

    def __repr__(self) -> str:
        return f"MemoryBlock(offset={self.offset}, size={self.size})"

    def ended(self) -> MemoryBlock:
        """Return a block of the same range that is gone, for an entry that must let go of this."""
        block = MemoryBlock(self.offset, self.size, self.pool_id)
        block.state = GONE
        return block

    # -- leases --------------------------------------------------------------------------

    @property
    def is_leased(self) -> bool:
        """Whether a view of the block is alive."""
        ref = self.root_ref
        return ref is not None and ref() is not None

    def make_root(self, arena: Bytes, on_end: Callable[[RootRef], None]) -> Bytes:
        """Make the root array; the caller has checked that no view is alive.

        Parameters
        ----------
        arena : ndarray of uint8
            All bytes of the arena.
        on_end : callable
            Called with the reference when the root array has died: in any thread, at any time.
        """
        shown: Bytes | None = self._private
        if shown is None:
            if self._mapping is None:
                shown = arena[self.offset : self.offset + self.size]
            else:
                private = np.frombuffer(self._mapping.buffer, _BYTE).view(ArenaBytes)
                self._private = shown = private[: self.size]
        root = shown.view(_ARRAY)
        self.root_ref = ref = RootRef(root, on_end)
        ref.block = self
        return root

    def checked_range(self, group: Any, start: Any, end: Any) -> tuple[int | None, int, int]:
        """Return a range of each stripe of a group, or of all groups for None, as ints.

        Raises
        ------
        InvalidViewError
            The block has no such group, or its stripes no such range.
        """
        pages = self.pages
        limit = self.size if pages is None else pages.stripe_bytes
        first = whole_number("start", start, InvalidViewError, least=0, most=limit)
        last = whole_number("end", end, InvalidViewError, least=first, most=limit)
        if group is None:
            return None, first, last
        most = None if pages is None else pages.geometry.groups - 1
        return whole_number("group", group, InvalidViewError, least=0, most=most), first, last

    # -- parent and children -------------------------------------------------------------

    @property
    def is_fork(self) -> bool:
        """Whether the block began as a fork: it reads pages of its parent until it writes them."""
        return self._parent is not None

    @property
    def parent(self) -> MemoryBlock | None:
        """The block whose pages this one reads until it writes its own; None if not a fork."""
        return None if self._parent is None else self._parent()

    @property
    def children(self) -> Collection[MemoryBlock]:
        """The forks that read pages of this block."""
        return self._children.keys()

    @property
    def is_alone(self) -> bool:
        """Whether the block has neither a parent nor children."""
        return self._parent is None and not self._children

    @property
    def shared_bytes(self) -> int:
        """Bytes at the start of each stripe that children read."""
        if not self._lengths:
            return 0  # as for most blocks
        return max(self._lengths, default=0)  # one call: forks end in other threads

    @property
    def shares_pages(self) -> bool:
        """Whether the block reads pages of its parent, or a child reads pages of this block."""
        pages = self.pages
        if pages is None:
            return False
        return pages.inherited_bytes > 0 or self.shared_bytes > 0

    def shared_with(self, child: MemoryBlock) -> int:
        """Return the bytes at the start of each stripe that one child reads; -1 if not a child."""
        return self._children.get(child, -1)

    def shared_pages(self, ended: Collection[MemoryBlock] = ()) -> int:
        """Return the number of pages of each stripe that children read.

        Parameters
        ----------
        ended : collection of MemoryBlock
            Children that are not counted.
        """
        if self.pages is None or not self._children:
            return 0
        if not ended:
            return self.pages.pages(self.shared_bytes)
        shared = (nbytes for child, nbytes in self._children.items() if child not in ended)
        return self.pages.pages(max(shared, default=0))

    def share(self, child: MemoryBlock, nbytes: int) -> None:
        """Note that a child reads the first `nbytes` of each stripe, or less than before."""
        if not self._children:
            self._children, self._lengths = {}, {}
        before = self._children.get(child, -1)
        if before != nbytes:
            self._children[child] = nbytes
            self._lengths[nbytes] = self._lengths.get(nbytes, 0) + 1
            self._forget_length(before)

    def _forget_length(self, nbytes: int) -> None:
        left = self._lengths.get(nbytes, 0) - 1
        if left > 0:
            self._lengths[nbytes] = left
        else:
            self._lengths.pop(nbytes, None)

    def recount(self) -> None:
        """Count anew how many children read how much, after a step that was interrupted."""
        if self._children:
            self._lengths = dict(Counter(self._children.values()))
        else:
            self._children, self._lengths = _NO_CHILDREN, _NO_LENGTHS

    def become_child(self, parent: MemoryBlock, pages: CommittedPages, mapping: ArenaFork) -> None:
        """Read the inherited bytes of `pages` from a parent, through a private mapping."""
        self._mapping, self._private, self.pages = mapping, None, pages
        self.follow(parent)
        parent.share(self, pages.inherited_bytes)

    def follow(self, parent: MemoryBlock) -> None:
        """Have this block as the parent from now on."""
        self._parent = weakref.ref(parent)

    def disown(self, child: MemoryBlock) -> bool:
        """Forget a child, which is gone; tell whether it was known."""
        nbytes = self._children.pop(child, None)
        if nbytes is None:
            return False
        self._forget_length(nbytes)
        return True

    def decommit(self, offset: int, nbytes: int) -> None:
        """Give back a fork's own pages of a range: bytes from the start of the block."""
        if self._mapping is not None:
            self._mapping.decommit(offset, nbytes)

    def heir(self) -> MemoryBlock:
        """Return a new block that has no owner, with the pages, views and children of this one."""
        heir = MemoryBlock(self.offset, self.size, self.pool_id)
        heir.state = DRAINING
        heir.pages, heir.charged = self.pages, self.charged
        heir.root_ref = self.root_ref
        heir._children, heir._lengths = self._children, self._lengths
        return heir

    def hand_over(
        self, heir: MemoryBlock, pages: CommittedPages, mapping: ArenaFork
    ) -> MemoryBlock:
        """Leave pages, views and children to `heir`, and become a fork of it; return the heir.

        It may be done again from the start if it was interrupted.
        """
        for child in heir._children:
            if child is not self:
                child.follow(heir)
        root = heir.root_ref
        if root is not None and root() is not None:
            root.block = heir
        self.root_ref, self.charged = None, 0
        self._children, self._lengths = _NO_CHILDREN, _NO_LENGTHS
        self.become_child(heir, pages, mapping)
        return heir

    def let_go(self) -> None:
        """Be gone: views that are alive keep the mapping of a fork, the block does not."""
        self.state = GONE
        self._mapping = self._private = None
        self._children, self._lengths = _NO_CHILDREN, _NO_LENGTHS

    @property
    def is_mapped(self) -> bool:
        """Whether the block has a private mapping."""
        return self._mapping is not None


_NO_CHILDREN: dict[MemoryBlock, int] = {}
_NO_LENGTHS: dict[int, int] = {}
# What every block without children has, because most blocks have none. Never changed.


def view_geometry(
    block: MemoryBlock,
    dtype: DTypeLike,
    shape: SupportsIndex | Sequence[SupportsIndex],
    offset: int,
) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """Return dtype, shape and offset of a view that is inside the block; raise otherwise."""
    type_ = _dtype(dtype)
    if shape.__class__ is tuple:  # as nearly always
        given: Sequence[Any] = shape
    else:
        given = shape if isinstance(shape, Sequence) and not isinstance(shape, bytes) else (shape,)
    dims = tuple(
        [dim if dim.__class__ is int else byte_count("a dimension of shape", dim) for dim in given]
    )
    start = byte_count("offset", offset)
    if type_.hasobject or not type_.itemsize:
        raise InvalidViewError(f"dtype {dtype!r} cannot be stored in plain bytes")
    if min(dims, default=0) < 0:
        raise InvalidViewError(f"shape {dims} has a negative dimension")
    if start % type_.alignment:
        raise InvalidViewError(
            f"offset {start} is misaligned: {type_} needs a multiple of {type_.alignment}"
        )
    if block.__class__ is not MemoryBlock:
        raise not_a_block(block, "view")
    end = start + math.prod(dims) * type_.itemsize
    if start < 0 or end > block.size:
        raise InvalidViewError(
            f"{type_}{list(dims)} at offset {start} needs the bytes [{start}, {end}) "
            f"of a block of {block.size}"
        )
    return type_, dims, start


def not_a_block(block: object, verb: str) -> ForeignBlockError:
    """Return the error of a call that was given another object than a block."""
    return ForeignBlockError(f"cannot {verb} {block!r}: it is not a block of a pool")


def _dtype(dtype: DTypeLike) -> np.dtype[Any]:
    try:
        if dtype is not None:  # which NumPy takes for float64
            return np.dtype(dtype)
    except (TypeError, ValueError):
        pass
    raise InvalidViewError(f"dtype {dtype!r} is not the name of a dtype, nor a dtype")
