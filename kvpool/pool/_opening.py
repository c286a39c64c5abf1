"""`ElasticPool` and `open_pool`: which arena a pool is opened over, and how large."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kvpool._checks import check_flag
from kvpool._sizes import as_capacity
from kvpool.arena import Arena, ArenaBackend, Capability
from kvpool.backends import registry
from kvpool.errors import ArenaError, InvalidOptionError, InvalidSizeError, UnsupportedError
from kvpool.pool._elastic import ElasticAccounting
from kvpool.pool._pool import MemoryPool

__all__ = ["ElasticPool", "open_pool"]


class ElasticPool(MemoryPool):
    """A `MemoryPool` whose budget is the committed pages, in far more address space.

    A block that is reserved costs nothing but addresses. Its pages are charged when they are
    about to be written, and uncharged when they are given back. A block that is allocated is
    charged with all its pages.

    Parameters
    ----------
    capacity : int or str
        Bytes that may be committed, or a text like ``"4GiB"``; rounded down to whole pages.
    backend : str, optional
        Name of a backend with elastic arenas. [default: ``$KVPOOL_BACKEND``, else ``"mmap"`` on
        Linux]
    address_space : int or str, optional
        Bytes of address space to reserve. [default: as much as the backend suggests]
    secure : bool
        Makes no difference: pages are given back, and so read zero, as soon as they are free.
    **backend_options
        Handed to the backend; see ``kvpool backends``.

    Raises
    ------
    InvalidSizeError
        `capacity` or `address_space` is not a whole number, `capacity` is less than one page,
        or `address_space` is less than `capacity`.
    UnsupportedError
        The backend has no elastic arenas with these options, or not on this system.
    InvalidArgumentError
        `secure` is neither True nor False.
    PluginError
        The backend cannot be chosen.
    ArenaError
        The system refused to create the arena.

    Notes
    -----
    *Forks.* A fork reads the pages of its parent, which are charged once, to the parent. The
    parent keeps them as long as a fork reads them, also after it was deallocated. A page that a
    fork writes is its own, and charged to it.

    *Zeros.* A block's pages are given back when it ends, so the next block reads zeros.

    Examples
    --------
    >>> from kvpool import KVLayout
    >>> layout = KVLayout(layers=1, kv_heads=2, head_dim=64, dtype="float16")
    >>> pool = ElasticPool(1 << 20, backend="mmap")
    >>> block = pool.reserve(layout.geometry(1 << 20, pool.granule))
    >>> block.size, block.charged
    (536870912, 0)
    >>> pool.commit(block, 0, 0, 128)
    True
    >>> block.charged == 4 * pool.granule
    True
    >>> pool.close()
    """

    def __init__(
        self,
        capacity: int | str,
        backend: str | None = None,
        address_space: int | str | None = None,
        *,
        secure: bool = False,
        **backend_options: Any,
    ) -> None:
        check_flag("secure", secure)  # and no more; see the docstring
        budget = as_capacity("capacity", capacity)
        space = None if address_space is None else as_capacity("address_space", address_space)
        if space is not None and space < budget:
            raise InvalidSizeError(f"address_space {space} is less than the capacity {budget}")
        arena = _create_elastic(registry.choose(backend), budget, space, backend_options)
        page_size = arena.info.page_size
        if budget < page_size:
            arena.close()
            raise InvalidSizeError(f"a capacity of {budget} bytes is less than a page, {page_size}")
        self._open(arena, ElasticAccounting(budget - budget % page_size, arena))


def open_pool(
    capacity: int | str,
    backend: str | None = None,
    elastic: bool | None = None,
    *,
    secure: bool = False,
    **backend_options: Any,
) -> MemoryPool:
    """Open an elastic pool if the backend has elastic arenas, otherwise a rigid one.

    Parameters
    ----------
    capacity : int or str
        Bytes of the pool, or a text like ``"4GiB"``.
    backend : str, optional
        Name of the backend that holds the bytes. [default: ``$KVPOOL_BACKEND``, else ``"mmap"`` on
        Linux and ``"numpy"`` on other systems]
    elastic : bool, optional
        True for an `ElasticPool`, False for a rigid `MemoryPool`. [default: elastic if the
        backend can]
    secure : bool, default False
        Whether bytes are set to zero as soon as they are free.
    **backend_options
        Handed to the backend; an elastic pool takes ``address_space`` as well.

    Returns
    -------
    MemoryPool
        `MemoryPool.is_elastic` tells which.

    Raises
    ------
    UnsupportedError
        `elastic` is True, and the backend has no elastic arenas.
    InvalidSizeError
        `capacity` is not a whole number of bytes, or too small.
    InvalidArgumentError
        `elastic` or `secure` is neither True nor False.
    PluginError
        The backend cannot be chosen.
    ArenaError
        The system refused to create the arena.
    """
    if elastic is not None:
        check_flag("elastic", elastic)
    else:
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
