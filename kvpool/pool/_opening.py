"""`ElasticPool`: a pool that counts committed pages, in far more address space than budget."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from kvpool._checks import align_up
from kvpool.arena import MIN_ALIGNMENT, Arena, ArenaBackend, Capability
from kvpool.backends import registry
from kvpool.errors import ArenaError, InvalidOptionError, InvalidSizeError, UnsupportedError
from kvpool.pool._block import Bytes, MemoryBlock, as_int, is_leased
from kvpool.pool._elastic import ElasticTable
from kvpool.pool._pages import RunGeometry
from kvpool.pool._pool import MemoryPool

__all__ = ["ElasticPool", "open_pool"]


class ElasticPool(MemoryPool):
    """A `MemoryPool` whose budget is the pages that are committed.

    A block that is reserved costs nothing but addresses. Its pages are charged when they are
    about to be written, and uncharged when they are given back. A block that is allocated is
    charged with all its pages, as in a `MemoryPool`.

    Parameters
    ----------
    capacity : int
        Bytes that may be committed; rounded down to whole pages.
    backend : str, optional
        As for `MemoryPool`; its arenas must have `Capability.ELASTIC`.
    address_space : int, optional
        Bytes of address space to reserve. By default as much as the backend suggests.
    secure : bool
        Makes no difference: bytes are gone as soon as they are free.
    **backend_options
        Handed to the backend.

    Raises
    ------
    InvalidSizeError
        `capacity` is less than one page, or `address_space` less than `capacity`.
    UnsupportedError
        The backend has no elastic arenas, not with these options, or not on this system.
    PluginError, ArenaError
        As for `MemoryPool`.

    Notes
    -----
    *Forks.* A fork shows the pages of its base, which are charged once, to the base. The base
    keeps them as long as a fork reads them, whatever becomes of its owner. A page that a
    fork writes is its own, and charged to it.

    *Zeros.* A block's pages are given back when it ends, so the next one reads zeros.

    Examples
    --------
    >>> from kvpool import KVLayout
    >>> layout = KVLayout(layers=1, kv_heads=2, head_dim=64, dtype="float16")
    >>> pool = ElasticPool(1 << 20, backend="mmap")
    >>> block = pool.reserve(layout.geometry(1 << 20, pool.granule))
    >>> block.size, block.charged
    (536870912, 0)
    >>> pool.commit(block, [0], 0, 128)
    >>> block.charged == 4 * pool.granule
    True
    >>> pool.close()
    """

    def __init__(
        self,
        capacity: int,
        backend: str | None = None,
        address_space: int | None = None,
        *,
        secure: bool = False,
        **backend_options: Any,
    ) -> None:
        del secure  # pages are given back, and read zero, as soon as they are free
        budget = as_int("capacity", capacity)
        space = None if address_space is None else as_int("address_space", address_space)
        if space is not None and space < budget:
            raise InvalidSizeError(f"address_space {space} is less than the capacity {budget}")
        chosen = registry.choose(backend)
        arena = _create_elastic(chosen, budget, space, backend_options)
        page_size = arena.info.page_size
        if budget < page_size:
            arena.close()
            raise InvalidSizeError(f"a capacity of {budget} bytes is less than a page, {page_size}")
        self._elastic = ElasticTable(budget - budget % page_size, arena)
        self._open(arena, self._elastic)

    def allocate(self, nbytes: int, alignment: int = MIN_ALIGNMENT) -> MemoryBlock:
        """Take a block all of whose pages are charged; it reads zero."""
        nbytes = as_int("nbytes", nbytes)
        self._check_alignment(alignment)
        with self._lock:
            self._begin()
            return self._elastic.allocate(nbytes, alignment)

    def reserve(self, geometry: RunGeometry) -> MemoryBlock:
        """Take a block for runs of tokens; nothing is charged yet."""
        with self._lock:
            self._begin()
            return self._elastic.reserve(geometry)

    def commit(self, block: MemoryBlock, groups: Iterable[int], start: int, end: int) -> None:
        """Charge the pages that writing to the runs of some groups needs."""
        with self._lock:
            self._begin()
            self._elastic.require_live(block, "commit pages of")
            self._elastic.commit(block, list(groups), start, end)

    def settle(self, block: MemoryBlock) -> None:
        """Let a fork that was written give back the pages that that committed in its base."""
        with self._lock:
            if not self._closed:
                self._elastic.settle(block)

    def trim(self, block: MemoryBlock, end: int) -> None:
        """Give back the pages behind the first `end` bytes of each run, if nobody views them."""
        self._check_end(block, end)
        with self._lock:
            self._begin()
            self._elastic.require_live(block, "trim")
            if not is_leased(block):
                self._elastic.trim(block, end)

    def fork(self, block: MemoryBlock, end: int) -> tuple[MemoryBlock, int] | None:
        """Make a block that shows the first `end` bytes of each run, without a copy."""
        self._check_end(block, end)
        with self._lock:
            self._begin()
            self._elastic.require_live(block, "fork")
            return self._elastic.fork(block, end)

    def zero_range(self, offset: int, nbytes: int) -> None:
        """Set a range of the arena to zero; its whole pages are given back, and stay charged."""
        start, count = self._checked_range(offset, nbytes)
        first = align_up(start, self.granule)
        last = (start + count) // self.granule * self.granule
        if first >= last:
            super().zero_range(start, count)
            return
        super().zero_range(start, first - start)
        super().zero_range(last, start + count - last)
        with self._lock:
            self._begin()
            self._arena.decommit(first, last - first)

    def _whole(self, block: MemoryBlock) -> Bytes:
        if block._fork is not None:
            return np.frombuffer(block._fork.buffer, np.uint8, block.size)
        return super()._whole(block)


def open_pool(
    capacity: int,
    backend: str | None = None,
    elastic: bool | None = None,
    *,
    secure: bool = False,
    **backend_options: Any,
) -> MemoryPool:
    """Open an elastic pool where the backend has elastic arenas, and else one that is not.

    Parameters
    ----------
    capacity, backend, secure, **backend_options
        As for `MemoryPool`.
    elastic : bool, optional
        True or False chooses; an elastic pool takes ``address_space`` too.

    Raises
    ------
    UnsupportedError
        `elastic` is True and cannot be.
    InvalidSizeError, PluginError, ArenaError
        As for `MemoryPool`.
    """
    if elastic is None:
        options = {key: value for key, value in backend_options.items() if key != "address_space"}
        elastic = bool(_sparse_size(registry.choose(backend), options))
    if elastic:
        return ElasticPool(capacity, backend, secure=secure, **backend_options)
    return MemoryPool(capacity, backend, secure=secure, **backend_options)


def _sparse_size(backend: ArenaBackend, options: dict[str, Any]) -> int:
    return backend.sparse(options) if backend.sparse is not None else 0


def _create_elastic(
    backend: ArenaBackend, budget: int, space: int | None, options: dict[str, Any]
) -> Arena:
    """Create an arena much larger than the budget, as large as the system lets it be."""
    suggested = _sparse_size(backend, options)
    if not suggested:
        raise UnsupportedError(f"the {backend.name} backend has no elastic arenas with {options}")
    for size in _sizes(budget, max(suggested, budget)) if space is None else [space]:
        try:
            arena = backend.create(size, **options)
        except InvalidOptionError:
            raise
        except ArenaError as error:
            refusal = error
            continue
        if Capability.ELASTIC in arena.info.capabilities and arena.info.zeroed:
            return arena
        arena.close()
        raise UnsupportedError(
            f"the {backend.name} arena with {options} cannot give pages back here; "
            "pass elastic=False"
        )
    raise refusal


def _sizes(budget: int, suggested: int) -> Iterator[int]:
    """Yield sizes to try: the limits of a process, or of a file system, are not known before."""
    size = suggested
    while size > budget:
        yield size
        size //= 8
    yield budget
