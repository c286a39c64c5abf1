"""`MemoryPool`: an arena, the accounts of its blocks, and the views of them."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NoReturn, SupportsIndex

import numpy as np
from numpy.typing import DTypeLike, NDArray

from kvpool._asking import is_in_another_call
from kvpool._checks import byte_count, check_alignment, check_callable, check_flag, whole_number
from kvpool._closing import Closing
from kvpool._html import Card
from kvpool._process import ForkAware, current, forget_forks, in_child_of, watch_forks
from kvpool._sizes import as_capacity, format_size
from kvpool.arena import MIN_ALIGNMENT, Arena, ArenaInfo
from kvpool.backends import create_arena
from kvpool.errors import (
    InvalidAlignmentError,
    InvalidArgumentError,
    InvalidViewError,
    PoolClosedError,
)
from kvpool.pool._accounting import Accounting, Leaving
from kvpool.pool._block import (
    DRAINING,
    ArenaBytes,
    Bytes,
    MemoryBlock,
    RootRef,
    not_a_block,
    view_geometry,
)
from kvpool.pool._pages import StripeGeometry, check_geometry, stripe_bytes
from kvpool.pool._usage import BlockUsage, Deallocation
from kvpool.stats import CopyReason, MemoryStats

__all__ = ["MemoryPool"]


class MemoryPool(Closing, ForkAware):
    """A bounded pool of bytes, handed out as zeroed blocks with zero-copy views.

    A pool is *rigid* or *elastic*. A rigid pool charges a block with all its bytes. An elastic
    one, which `ElasticPool` opens, charges the pages that are committed. Both have these methods.

    Parameters
    ----------
    capacity : int or str
        Bytes of the pool, or a text like ``"4GiB"``; rounded down to a multiple of 64.
    backend : str, optional
        Name of the backend that holds the bytes. [default: ``$KVPOOL_BACKEND``, else ``"mmap"`` on
        Linux and ``"numpy"`` on other systems]
    secure : bool, default False
        Whether bytes are set to zero as soon as they are free, under the lock. Otherwise they are
        set to zero when they are handed out again. Bytes that are in use when the pool is
        closed stay in its file, if it has one.
    **backend_options
        Handed to the backend; see ``kvpool backends``.

    Raises
    ------
    InvalidSizeError
        `capacity` is not a whole number of bytes, or less than 64.
    InvalidArgumentError
        `secure` is neither True nor False.
    PluginError
        The backend cannot be chosen.
    ArenaError
        The system refused to create the arena.

    Notes
    -----
    *Atomic.* On any error of any method nothing has changed, but for one: if the arena fails
    (`ArenaError`) in a call that ends blocks, such as `make_room` or `deallocate`, blocks may have
    ended. `is_live` tells which. They cannot come back, because their pages may be gone, and on a
    full disk the room for a new block has to come from them. The accounts are right all the same.

    *A view is a lease.* Views of a block keep its bytes: deallocating a block with a live
    view makes the block unusable at once, and its bytes return to the pool with the last
    view. What a view shows can therefore never become another block's.

    *Threads.* All methods may be called by any thread at any time, but only `stats` by a finalizer
    (``__del__``) or a signal handler, which may run in the middle of another call. Views may end
    anywhere. One lock guards the accounts; no byte is written under it, unless the pool is
    `secure`.

    *Processes.* A pool belongs to the process that made it. In a child that `os.fork` made,
    every call that needs the accounts raises `ForkedProcessError`, and `close` does nothing.

    Examples
    --------
    >>> pool = MemoryPool(1 << 20, backend="numpy")
    >>> block = pool.allocate(4096)
    >>> view = pool.view(block, "float32", (8, 128))
    >>> view[0, :2] = 1.5
    >>> float(view.sum())
    3.0
    """

    def __init__(
        self,
        capacity: int | str,
        backend: str | None = None,
        *,
        secure: bool = False,
        **backend_options: Any,
    ) -> None:
        check_flag("secure", secure)
        accounting = Accounting(as_capacity("capacity", capacity), MIN_ALIGNMENT)
        arena = create_arena(accounting.capacity, backend, **backend_options)
        if not arena.info.zeroed:
            accounting.touched = accounting.capacity
        if arena.info.needs_commit:
            accounting.find_room = arena.commit
        self._open(arena, accounting)
        if secure:
            accounting.wipe = partial(_set_zero, self._bytes)

    def _open(self, arena: Arena, accounting: Accounting) -> None:
        self._accounting = accounting
        self._arena = arena
        self._bytes: Bytes = np.frombuffer(arena.buffer, np.uint8)
        self._narrow = self._bytes.view(ArenaBytes)  # which root arrays are made of
        self._lock = threading.Lock()
        self._closed = False
        self._geometry: StripeGeometry | None = None  # one that was checked: most are the same
        self._ended: deque[RootRef] = deque()  # dead roots of draining blocks, yet to be reaped
        self._owner = current.pid
        watch_forks(weakref.ref(self, forget_forks))

    def _enter_child(self) -> None:
        self._lock = threading.Lock()
        self._closed = True  # so that calls come to `_reap`, and what may be ignored is ignored

    def _check_process(self) -> None:
        if self._owner != current.pid:
            raise in_child_of(self._owner, "pool")

    def _books(self) -> Accounting:
        """Return the accounts: refuse a closed or inherited pool, and reap ended leases, before.

        The caller holds the lock. Every method comes to the accounts through this, except for
        figures that never change, and for `lease` and `write_lease`, which every token calls.
        """
        books = self._accounting
        if self._ended or books.step or self._closed:
            self._reap(books)
        return books

    def _reap(self, books: Accounting) -> None:
        if self._closed:
            self._refuse_closed()
        if books.step:  # a step was interrupted
            books.recover()
        if self._ended:
            books.end_leases(self._ended)

    def _refuse_closed(self) -> NoReturn:
        self._check_process()
        raise PoolClosedError(f"the {self._arena.info.backend} pool is closed")

    @property
    def is_busy(self) -> bool:
        """Whether a call of this thread or another one is under way."""
        return self._lock.locked()

    # -- blocks --------------------------------------------------------------------------

    def allocate(self, nbytes: int, alignment: int = MIN_ALIGNMENT) -> MemoryBlock:
        """Take a block; its bytes read zero.

        Parameters
        ----------
        nbytes : int
            Bytes, at least 1. Charged rounded up to a multiple of `granule`.
        alignment : int, default 64
            The address of the block is a multiple of this power of two, which is at most
            the alignment of the arena's base address.

        Returns
        -------
        MemoryBlock

        Raises
        ------
        InvalidSizeError
            `nbytes` is not a whole number of at least 1.
        InvalidAlignmentError
            `alignment` is not a power of two, or more than the arena's base address has.
        PoolExhaustedError
            No free range is large enough, or that many bytes may not be committed.
        ArenaError
            The arena has no room for the bytes, such as on a full disk.
        PoolClosedError
            The pool is closed.
        """
        if nbytes.__class__ is not int:  # unlike nearly always
            nbytes = byte_count("nbytes", nbytes)
        if alignment is not MIN_ALIGNMENT:  # which every arena has
            alignment = self._check_alignment(alignment)
        with self._lock:
            books = self._books()
            touched, data = books.touched, self._bytes
            block = books.allocate(nbytes, alignment)
        start = block.offset
        if start < touched:  # as `_clean`, without another call
            data[start : min(start + nbytes, touched)] = 0
        return block

    def allocate_evicting(
        self,
        nbytes: int,
        victims: Iterable[MemoryBlock],
        *,
        deallocations: list[Deallocation] | None = None,
        owner: object = None,
        leaving: Leaving = None,
    ) -> tuple[MemoryBlock, list[MemoryBlock]]:
        """Take a block, and deallocate others in the given order until it fits; one atomic step.

        Parameters
        ----------
        nbytes : int
            Bytes, at least 1.
        victims : iterable of MemoryBlock
            Live blocks of this pool in the order in which they may go. Leased blocks are
            passed over. It is taken only as far as needed, and must not call the pool.
        deallocations : list of Deallocation, optional
            The figures around the end of each victim are appended.
        owner : object, optional
            Noted as the owner of the block, so that `usage` tells after an interrupt which blocks
            the owner took and never got to know.
        leaving : callable, optional
            Takes the victims that are about to end, in a list, before the first of them does and
            under the lock of the pool, which it must not call. What it raises ends the call, and
            nothing has changed. [default: nothing is called]

        Returns
        -------
        block : MemoryBlock
        evicted : list of MemoryBlock
            The blocks that were deallocated, in order; empty if the block fits already.

        Raises
        ------
        InvalidSizeError
            `nbytes` is not a whole number of at least 1.
        PoolExhaustedError
            The block would not fit even without any of the victims.
        ArenaError
            The arena has no room for the bytes, such as on a full disk, or gives no pages back.
            Only then victims may have ended all the same; `is_live` tells which.
        StaleBlockError
            A victim was deallocated before.
        DoubleFreeError
            A victim comes twice.
        ForeignBlockError
            A victim belongs to another pool, or is not a block.
        InvalidArgumentError
            `victims` cannot be iterated over, `deallocations` is not a list, or `leaving` cannot be
            called.
        PoolClosedError
            The pool is closed.
        """
        nbytes = byte_count("nbytes", nbytes, least=1)
        if leaving is not None:
            check_callable("leaving", leaving)
        with self._lock:
            books = self._books()
            touched, data = books.touched, self._bytes
            block, evicted = books.allocate_evicting(nbytes, victims, deallocations, owner, leaving)
        if block.offset < touched:
            _clean(data, block, touched)
        return block, evicted

    def deallocate(
        self, block: MemoryBlock, deallocations: list[Deallocation] | None = None
    ) -> bool:
        """Give a block back.

        Parameters
        ----------
        block : MemoryBlock
            Not to be used from now on.
        deallocations : list of Deallocation, optional
            The figures right before and right after are appended.

        Returns
        -------
        bool
            True if its bytes are free now, False if they follow with its last view or fork.

        Raises
        ------
        DoubleFreeError
            The block was deallocated before.
        ForeignBlockError
            `block` belongs to another pool, or is not a block.
        InvalidArgumentError
            `deallocations` is not a list.
        PoolClosedError
            The pool is closed.
        """
        with self._lock:
            return self._books().deallocate(block, deallocations)

    def reclaim(self, block: MemoryBlock, deallocations: list[Deallocation] | None = None) -> bool:
        """Give a block back unless it is leased; one atomic step.

        Parameters
        ----------
        block : MemoryBlock
        deallocations : list of Deallocation, optional
            The figures right before and right after are appended.

        Returns
        -------
        bool
            False if a view of the block is alive: the block stays live. True if it has ended;
            its bytes may still wait for its forks.

        Raises
        ------
        StaleBlockError
            The block was deallocated before.
        ForeignBlockError
            `block` belongs to another pool, or is not a block.
        InvalidArgumentError
            `deallocations` is not a list.
        PoolClosedError
            The pool is closed.
        """
        with self._lock:
            books = self._books()
            books.require_live(block, "reclaim")
            if block.is_leased:
                return False
            books.deallocate(block, deallocations)
            return True

    def make_room(
        self,
        nbytes: int,
        victims: Iterable[MemoryBlock],
        alignment: int = MIN_ALIGNMENT,
        deallocations: list[Deallocation] | None = None,
        leaving: Leaving = None,
    ) -> list[MemoryBlock]:
        """Deallocate blocks in the given order until `nbytes` can be charged.

        In a rigid pool that takes one free range of `nbytes`, in an elastic one that many bytes of
        pages. It is all or nothing: unless the request would fit after the last victim, no
        block is deallocated. One atomic step: no view can begin between the choice of a victim
        and its end.

        Parameters
        ----------
        nbytes : int
            Bytes, at least 1.
        victims : iterable of MemoryBlock
            Live blocks of this pool in the order in which they may go. Leased blocks are
            passed over. It is taken only as far as needed, and must not call the pool.
        alignment : int, default 64
            A power of two, of which the free range has a multiple in front of `nbytes`.
        deallocations : list of Deallocation, optional
            The figures around the end of each victim are appended.
        leaving : callable, optional
            Takes the victims that are about to end, in a list, before the first of them does and
            under the lock of the pool, which it must not call. What it raises ends the call, and
            nothing has changed. [default: nothing is called]

        Returns
        -------
        list of MemoryBlock
            The blocks that were deallocated, in order; empty if the request fits already.

        Raises
        ------
        InvalidSizeError
            `nbytes` is not a whole number of at least 1.
        InvalidAlignmentError
            `alignment` is not a power of two, or more than the arena's base address has.
        PoolExhaustedError
            The request would not fit even without any of the victims.
        ArenaError
            The arena does not give pages back. Only then victims may have ended all the same;
            `is_live` tells which.
        StaleBlockError
            A victim was deallocated before.
        DoubleFreeError
            A victim comes twice.
        ForeignBlockError
            A victim belongs to another pool, or is not a block.
        InvalidArgumentError
            `victims` cannot be iterated over, `deallocations` is not a list, or `leaving` cannot be
            called.
        PoolClosedError
            The pool is closed.
        """
        if nbytes.__class__ is not int or nbytes < 1:  # unlike nearly always
            nbytes = byte_count("nbytes", nbytes, least=1)
        if alignment is not MIN_ALIGNMENT:  # which every arena has
            alignment = self._check_alignment(alignment)
        if leaving is not None:
            check_callable("leaving", leaving)
        with self._lock:
            return self._books().make_room(nbytes, victims, alignment, deallocations, leaving)

    def is_leased(self, block: MemoryBlock) -> bool:
        """Tell whether a view of the block is alive.

        Raises
        ------
        StaleBlockError
            The block was deallocated before.
        ForeignBlockError
            `block` belongs to another pool, or is not a block.
        PoolClosedError
            The pool is closed.
        """
        with self._lock:
            self._books().require_live(block, "ask for the leases of")
            return block.is_leased

    def is_live(self, block: MemoryBlock) -> bool:
        """Tell whether a block belongs to this pool and was not deallocated."""
        self._check_process()
        return self._accounting.is_live(block)

    # -- bytes ---------------------------------------------------------------------------

    def lease(self, block: MemoryBlock) -> Bytes:
        """Return all bytes of a block as the array that every view of it is based on.

        Of a block from `reserve` or `fork`, call `commit` or `write_lease` before you touch bytes
        that are not committed: to look at one commits its page, which is not charged.

        Parameters
        ----------
        block : MemoryBlock

        Returns
        -------
        ndarray of uint8, shape (block.size,)
            Writable. While it, or an array derived from it, lives, the block is leased.

        Raises
        ------
        StaleBlockError
            The block was deallocated before.
        ForeignBlockError
            `block` belongs to another pool, or is not a block.
        PoolClosedError
            The pool is closed.
        """
        with self._lock:
            books = self._accounting
            if self._ended or books.step or self._closed:  # as in `_books`, without a call
                self._reap(books)
            books.require_live(block, "view")
            ref = block.root_ref
            root = None if ref is None else ref()
            return block.make_root(self._narrow, self._lease_ended) if root is None else root

    def write_lease(
        self, block: MemoryBlock, group: int | None, start: int, end: int
    ) -> tuple[Bytes, bool]:
        """Commit the pages for a write, and lease the block; one atomic step.

        Parameters
        ----------
        block : MemoryBlock
            From `reserve` or `fork`.
        group : int or None
            The group of stripes that is written; None: every group.
        start, end : int
            What is written: bytes from the start of each stripe.

        Returns
        -------
        root : ndarray of uint8, shape (block.size,)
            As `lease` returns it.
        took_pages : bool
            Whether that took new pages. Then call `trim_parent` when the bytes are written.

        Raises
        ------
        InvalidViewError
            Pages are missing for the range, and the block has no such group or range.
        PoolExhaustedError
            That many pages may not be committed.
        StaleBlockError
            The block was deallocated before.
        ForeignBlockError
            `block` belongs to another pool, or is not a block.
        PoolClosedError
            The pool is closed.
        """
        with self._lock:
            books = self._accounting
            if self._ended or books.step or self._closed:  # as in `_books`, without a call
                self._reap(books)
            took_pages = books.commit(block, group, start, end)
            ref = block.root_ref
            root = None if ref is None else ref()
            if root is None:
                root = block.make_root(self._narrow, self._lease_ended)
            return root, took_pages

    def view(
        self,
        block: MemoryBlock,
        dtype: DTypeLike,
        shape: SupportsIndex | Sequence[SupportsIndex],
        offset: int = 0,
    ) -> NDArray[Any]:
        """Return a writable zero-copy array over a part of a block. It is a lease.

        Parameters
        ----------
        block : MemoryBlock
        dtype : dtype
            Of fixed size, without Python objects.
        shape : int or tuple of int
        offset : int, default 0
            Bytes from the start of the block; a multiple of the dtype's alignment.

        Returns
        -------
        ndarray
            C-contiguous, of that dtype and shape.

        Raises
        ------
        InvalidViewError
            The view reaches outside of the block, is misaligned, or has a negative
            dimension or a dtype that cannot be stored in plain bytes.
        InvalidSizeError
            `offset` or a dimension is not a whole number.
        StaleBlockError
            The block was deallocated before.
        ForeignBlockError
            `block` belongs to another pool, or is not a block.
        PoolClosedError
            The pool is closed.
        """
        type_, dims, start = view_geometry(block, dtype, shape, offset)
        root = self.lease(block)
        try:
            return np.ndarray(dims, type_, root, start)
        except (OverflowError, ValueError) as error:
            raise InvalidViewError(f"no array has shape {dims}: {error}") from None
        finally:
            del root  # a traceback that is kept must not keep the lease

    def zero_range(self, offset: int, nbytes: int) -> None:
        """Set a range of the arena to zero.

        In an elastic pool the whole pages of the range are given back, and stay charged.

        Parameters
        ----------
        offset, nbytes : int
            Bytes, inside the pool. Which blocks they belong to is not checked.

        Raises
        ------
        InvalidSizeError
            `offset` or `nbytes` is not a whole number.
        InvalidViewError
            The range reaches outside of the pool.
        PoolClosedError
            The pool is closed.
        """
        start, count = byte_count("offset", offset), byte_count("nbytes", nbytes)
        end, size = start + count, self._accounting.allocator.capacity
        if start < 0 or count < 0 or end > size:
            raise InvalidViewError(f"cannot zero [{start}, {end}): the pool has [0, {size})")
        with self._lock:
            first, last = self._books().erase_pages(start, end)
            data = self._bytes
        data[start:first] = 0
        data[last:end] = 0

    # -- pages ---------------------------------------------------------------------------

    def reserve(self, geometry: StripeGeometry) -> MemoryBlock:
        """Take a block for stripes of tokens; it reads zero.

        An elastic pool charges its pages as they are committed, a rigid one the whole block.

        Parameters
        ----------
        geometry : StripeGeometry
            Where the stripes are in the block.

        Returns
        -------
        MemoryBlock
            Of ``geometry.nbytes``.

        Raises
        ------
        InvalidArgumentError
            `geometry` does not say where stripes are.
        PoolExhaustedError
            No free range is large enough.
        PoolClosedError
            The pool is closed.
        """
        if geometry is not self._geometry:
            self._check_geometry(geometry)
        with self._lock:
            books = self._books()
            touched, data = books.touched, self._bytes
            block = books.reserve(geometry)
        if block.offset < touched:
            _clean(data, block, touched)
        return block

    def reserve_evicting(
        self,
        geometry: StripeGeometry,
        victims: Iterable[MemoryBlock],
        *,
        committed: int = 0,
        deallocations: list[Deallocation] | None = None,
        owner: object = None,
        leaving: Leaving = None,
    ) -> tuple[MemoryBlock, list[MemoryBlock]]:
        """Reserve a block, and deallocate others in the given order until it fits.

        One atomic step, for addresses and for pages.

        Parameters
        ----------
        geometry : StripeGeometry
            Where the stripes are in the block.
        victims : iterable of MemoryBlock
            Live blocks of this pool in the order in which they may go. Leased blocks are
            passed over. It is taken only as far as needed, and must not call the pool.
        committed : int, default 0
            Bytes at the start of every stripe that are committed in the same step.
        deallocations : list of Deallocation, optional
            The figures around the end of each victim are appended.
        owner : object, optional
            Noted as the owner of the block, so that `usage` tells after an interrupt which blocks
            the owner took and never got to know.
        leaving : callable, optional
            Takes the victims that are about to end, in a list, before the first of them does and
            under the lock of the pool, which it must not call. What it raises ends the call, and
            nothing has changed. [default: nothing is called]

        Returns
        -------
        block : MemoryBlock
            Of ``geometry.nbytes``.
        evicted : list of MemoryBlock
            The blocks that were deallocated, in order; empty if the block fits already.

        Raises
        ------
        InvalidSizeError
            `committed` is not a whole number between 0 and the bytes of a stripe.
        PoolExhaustedError
            The block would not fit even without any of the victims. The subclass
            `AddressSpaceExhaustedError` says that an elastic pool lacks addresses, not pages.
        ArenaError
            The arena has no room for the pages, such as on a full disk, or gives no pages back.
            Only then victims may have ended all the same; `is_live` tells which.
        StaleBlockError
            A victim was deallocated before.
        DoubleFreeError
            A victim comes twice.
        ForeignBlockError
            A victim belongs to another pool, or is not a block.
        InvalidArgumentError
            `geometry` does not say where stripes are, `victims` cannot be iterated over,
            `deallocations` is not a list, or `leaving` cannot be called.
        PoolClosedError
            The pool is closed.
        """
        if geometry is not self._geometry:
            self._check_geometry(geometry)
        if committed.__class__ is not int or committed:
            committed = byte_count("committed", committed, least=0, most=stripe_bytes(geometry))
        if leaving is not None:
            check_callable("leaving", leaving)
        with self._lock:
            books = self._books()
            touched, data = books.touched, self._bytes
            block, evicted = books.reserve_evicting(
                geometry, committed, victims, deallocations, owner, leaving
            )
        if block.offset < touched:
            _clean(data, block, touched)
        return block, evicted

    def commit(self, block: MemoryBlock, group: int | None, start: int, end: int) -> bool:
        """Charge the pages for a write, before it is made; `write_lease` does both.

        Parameters
        ----------
        block : MemoryBlock
            From `reserve` or `fork`.
        group : int or None
            The group of stripes that is written; None: every group.
        start, end : int
            What is written: bytes from the start of each stripe.

        Returns
        -------
        bool
            Whether that took new pages; never in a rigid pool.

        Raises
        ------
        InvalidViewError
            The block has no such group, or its stripes no such range.
        PoolExhaustedError
            That many pages may not be committed.
        StaleBlockError
            The block was deallocated before.
        ForeignBlockError
            `block` belongs to another pool, or is not a block.
        PoolClosedError
            The pool is closed.
        """
        with self._lock:
            books = self._books()
            books.require_live(block, "write to")
            return books.commit(block, *block.checked_range(group, start, end))

    def trim_parent(self, block: MemoryBlock) -> None:
        """Give back pages of a fork's parent that writing to the fork committed there.

        To be called when the bytes are written. Does nothing if the block is not a fork, or if
        the pool was closed in between, or the process was forked.

        Parameters
        ----------
        block : MemoryBlock
            As given to `write_lease` or `commit`.
        """
        if block.__class__ is not MemoryBlock:
            raise not_a_block(block, "trim the parent of")
        if not block.is_fork:
            return
        with self._lock:
            if not self._closed:
                self._accounting.trim_parent(block)

    def trim(self, block: MemoryBlock, end: int) -> None:
        """Give back the pages past the first `end` bytes of each stripe.

        Nothing is given back while a view of the block is alive, nor in a rigid pool.

        Raises
        ------
        InvalidViewError
            `end` is not in the block.
        StaleBlockError
            The block was deallocated before.
        ForeignBlockError
            `block` belongs to another pool, or is not a block.
        PoolClosedError
            The pool is closed.
        """
        end = _checked_end(block, end, "trim")
        with self._lock:
            books = self._books()
            books.require_live(block, "trim")
            books.trim(block, end)

    def fork(self, block: MemoryBlock, end: int) -> tuple[MemoryBlock, int] | CopyReason:
        """Make a block that reads the first `end` bytes of each stripe, without a copy.

        Returns
        -------
        tuple of (MemoryBlock, int) or CopyReason
            The fork, and how many bytes of each stripe it reads: fewer than `end` if `block`
            is a fork itself, and has written the bytes past them. Or why the bytes must be
            copied; then nothing has changed.

        Raises
        ------
        InvalidViewError
            `end` is not in the block.
        StaleBlockError
            The block was deallocated before.
        ForeignBlockError
            `block` belongs to another pool, or is not a block.
        PoolClosedError
            The pool is closed.
        """
        end = _checked_end(block, end, "fork")
        with self._lock:
            books = self._books()
            books.require_live(block, "fork")
            return books.fork(block, end)

    def count_copied_fork(self, reason: CopyReason) -> None:
        """Count a fork that had to be a copy.

        Parameters
        ----------
        reason : CopyReason
            Such as `fork` returned it.

        Raises
        ------
        InvalidArgumentError
            `reason` is not a `CopyReason`.
        """
        self._check_process()
        if not isinstance(reason, CopyReason):
            raise InvalidArgumentError(f"reason must be a CopyReason, not {reason!r}")
        with self._lock:
            counts = self._accounting.copied_forks
            self._accounting.copied_forks = {**counts, reason: counts[reason] + 1}

    # -- the whole -----------------------------------------------------------------------

    def resize(self, capacity: int | str) -> None:
        """Change how many bytes may be charged; no block moves or ends.

        Parameters
        ----------
        capacity : int or str
            Bytes, or a text like ``"4GiB"``; rounded down to whole pages.

        Raises
        ------
        UnsupportedError
            The pool is rigid: its capacity is the size of its arena.
        InvalidSizeError
            `capacity` is not a size, is less than a page, or more than the address space.
        PoolExhaustedError
            More bytes are in use. A manager evicts sessions first, see `KVCacheManager.resize`.
        PoolClosedError
            The pool is closed.
        """
        nbytes = as_capacity("capacity", capacity)
        with self._lock:
            self._books().resize(nbytes)

    @property
    def is_elastic(self) -> bool:
        """Whether the pool charges committed pages, not whole blocks."""
        return self._accounting.is_elastic

    @property
    def capacity(self) -> int:
        """Bytes that all blocks together can be charged with."""
        return self._accounting.capacity

    @property
    def granule(self) -> int:
        """Bytes; blocks start at a multiple of it, and their sizes are rounded up to one."""
        return self._accounting.allocator.granule

    @property
    def arena_info(self) -> ArenaInfo:
        """What the arena behind the pool is."""
        return self._arena.info

    def charge(self, nbytes: int) -> int:
        """Return the bytes that an allocation of `nbytes` is charged with.

        Raises
        ------
        InvalidSizeError
            `nbytes` is not a whole number of at least 0.
        """
        return self._accounting.charge(byte_count("nbytes", nbytes, least=0))

    def cost(self, geometry: StripeGeometry, tokens: int) -> int:
        """Return the bytes that the pool charges for an entry that holds some tokens.

        Parameters
        ----------
        geometry : StripeGeometry
            Of the entry.
        tokens : int
            Tokens that all layers hold. A rigid pool charges the whole entry anyway.

        Raises
        ------
        InvalidArgumentError
            `geometry` does not say where stripes are.
        InvalidSizeError
            `tokens` is not a whole number of at least 0.
        """
        self._check_geometry(geometry)
        return self._accounting.cost(geometry, byte_count("tokens", tokens, least=0))

    def could_hold(self, geometry: StripeGeometry, tokens: int) -> bool:
        """Tell whether an entry with some tokens would fit into this pool if it were empty.

        Parameters
        ----------
        geometry : StripeGeometry
            Of the entry.
        tokens : int
            Tokens that all layers hold.

        Raises
        ------
        InvalidArgumentError
            `geometry` does not say where stripes are.
        InvalidSizeError
            `tokens` is not a whole number of at least 0.
        """
        self._check_geometry(geometry)
        return self._accounting.could_hold(geometry, byte_count("tokens", tokens, least=0))

    def committed_bytes(self) -> int | None:
        """Return what the system says of the arena; see `Arena.committed_bytes`.

        Raises
        ------
        PoolClosedError
            The pool is closed.
        """
        with self._lock:
            self._books()
            return self._arena.committed_bytes()

    def stats(self) -> MemoryStats:
        """Return the figures of the pool, all of one moment.

        A finalizer and a signal handler may call it: in the middle of another call of the thread,
        it takes no lock, and `MemoryStats.is_exact` is False.

        Raises
        ------
        PoolClosedError
            The pool is closed.
        """
        if self._lock.locked() and is_in_another_call():
            return self._accounting.glance() if not self._closed else self._refuse_closed()
        with self._lock:
            books = self._books()
            if books.is_draining:
                books.free_missed()
            return books.stats()

    def ranges(self) -> list[tuple[int, int, MemoryBlock | None]]:
        """Return the ranges that the arena is made of, in address order.

        Returns
        -------
        list of (offset, size, block)
            Bytes; `block` is None for a free range, and for that of a draining block.

        Raises
        ------
        PoolClosedError
            The pool is closed.
        """
        with self._lock:
            return self._books().ranges()

    def usage(self) -> list[BlockUsage]:
        """Return what each block costs and shares, draining blocks as well.

        Returns
        -------
        list of BlockUsage
            In address order; a parent comes before its forks.

        Raises
        ------
        PoolClosedError
            The pool is closed.
        """
        with self._lock:
            return self._books().usage()

    def check_integrity(self) -> None:
        """Prove that live, draining and free bytes make up the capacity, each once.

        Raises
        ------
        IntegrityError
            They do not; the text says where. This is a bug.
        PoolClosedError
            The pool is closed.
        """
        with self._lock:
            self._books().check_integrity()

    def close(self) -> None:
        """Give the arena up; a second call does nothing.

        All blocks become unusable. Views that are alive stay valid: their memory goes back
        to the system with the last of them. In a child that `os.fork` made it does nothing.
        """
        if self._owner != current.pid:
            return
        with self._lock:  # each step may be done again, if a call before was interrupted
            self._closed = True
            self._accounting.clear()
            self._bytes = np.empty(0, np.uint8)
            self._narrow = self._bytes.view(ArenaBytes)
            self._arena.close()

    def _lease_ended(self, ended: RootRef) -> None:
        """Note that a root array died: in any thread, at any time, even under the lock.

        So the death is only queued. It is reaped now if the lock is free, otherwise by the next
        call.
        """
        block = ended.block
        if block is None or block.state is not DRAINING:
            ended.block = None
            return
        self._ended.append(ended)
        # This thread may be the one that holds the lock. Another one holds it for a moment only,
        # and waits for nothing meanwhile.
        if not self._lock.locked():
            with self._lock:
                if not self._closed:
                    self._books()

    def __repr__(self) -> str:
        if self._owner != current.pid:
            state = f"of process {self._owner}"
        else:
            state = "closed" if self._closed else f"{self._accounting.used} used"
        kind = type(self).__name__
        return f"<{kind} {self._arena.info.backend}: {self.capacity} bytes, {state}>"

    def _repr_html_(self) -> str:
        """Return the figures as a table, which notebooks show."""
        info = self._arena.info
        card = Card(f"{type(self).__name__}, {info.backend}")
        card.row("capacity", format_size(self.capacity))
        if self._closed:
            card.row("state", "closed")
            return card.html()
        stats = self.stats()
        card.row("used", f"{format_size(stats.used)} ({stats.utilization:.1%})")
        card.row("largest free range", format_size(stats.largest_free))
        card.row("blocks", f"{stats.live_blocks:,} live, {stats.parting_blocks:,} draining")
        card.row("forks", f"{stats.forks:,} that share pages, {stats.copied_forks:,} copies")
        card.row("arena", ", ".join(info.capabilities.names()) or "holds bytes")
        return card.html()

    def _check_geometry(self, geometry: StripeGeometry) -> None:
        if geometry is not self._geometry:
            check_geometry(geometry)
            self._geometry = geometry

    def _check_alignment(self, alignment: int) -> int:
        """Return the alignment if the base address can give it."""
        number = check_alignment(alignment)
        if number > self._arena.info.alignment:
            raise InvalidAlignmentError(
                f"alignment {number} exceeds that of the arena's base address, "
                f"{self._arena.info.alignment}"
            )
        return number


def _checked_end(block: MemoryBlock, end: int, verb: str) -> int:
    """Return the end as an int, if it is inside the block."""
    if block.__class__ is not MemoryBlock:
        raise not_a_block(block, verb)
    number = whole_number("end", end, InvalidViewError)
    if not 0 <= number <= block.size:
        raise InvalidViewError(f"{end} bytes of each stripe are not in a block of {block.size}")
    return number


def _clean(data: Bytes, block: MemoryBlock, touched: int) -> None:
    """Set to zero what was handed out before of a new block, which only its caller knows yet."""
    data[block.offset : min(block.offset + block.size, touched)] = 0


def _set_zero(data: Bytes, offset: int, nbytes: int) -> None:
    data[offset : offset + nbytes] = 0
