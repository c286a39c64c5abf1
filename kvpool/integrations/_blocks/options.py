"""`BlockOptions`: what the configuration of an engine says about a store of blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

from kvpool._checks import check_number, whole_number
from kvpool._sizes import as_capacity
from kvpool.errors import InvalidArgumentError, InvalidOptionError
from kvpool.integrations._blocks.jobs import Jobs
from kvpool.integrations._blocks.store import BlockStore
from kvpool.manager import KVCacheManager
from kvpool.tiers import TierStore

__all__ = ["BlockOptions"]


@dataclass(frozen=True, slots=True)
class BlockOptions:
    """The options of a store of blocks, with the names that a configuration has.

    Parameters
    ----------
    pool : int or str, optional
        Bytes of memory for blocks, for example ``"8GiB"``. [default: no pool, tiers alone]
    backend : str, optional
        The backend of the pool. [default: that of a manager]
    policy : str, default "lru"
        Which blocks leave the pool: a name from the page "policies".
    ttl : float, optional
        Seconds without a use until a block leaves the pool.
    tiers : str or sequence of str
        URLs of tiers; the first one is asked first.
    load_budget : float, default 5.0
        Seconds that one load may take.
    queue : int or str, default "256MiB"
        Bytes that may wait to be written to each tier; further blocks are not written.
    backlog : int or str, default "256MiB"
        Bytes of blocks that the engine has given and that wait to be copied; further ones are not
        kept.
    drain : float, default 10.0
        Seconds for writing what is queued when the store is closed.
    threads : int, default 2
        Threads for loads.
    namespace : str, default "blocks"
        Namespace of the keys in the pool, for listings and receipts.

    Raises
    ------
    InvalidOptionError
        There is neither a pool nor a tier, or an option is of another type.
    """

    pool: int | str | None = None
    backend: str | None = None
    policy: str = "lru"
    ttl: float | None = None
    tiers: Sequence[str] = ()
    load_budget: float = 5.0
    queue: int | str = "256MiB"
    backlog: int | str = "256MiB"
    drain: float = 10.0
    threads: int = 2
    namespace: str = "blocks"

    def __post_init__(self) -> None:
        urls = (self.tiers,) if isinstance(self.tiers, str) else tuple(self.tiers)
        object.__setattr__(self, "tiers", urls)
        if self.pool is None and not urls:
            raise InvalidOptionError(
                'blocks need a place: give "pool", for example "8GiB", or "tiers", for example '
                '["disk:/var/kv?capacity=100GiB"], or both'
            )
        if strange := [url for url in urls if url.__class__ is not str]:
            raise InvalidOptionError(f'"tiers" must be URLs of tiers, not {strange[0]!r}')
        try:
            check_number("load_budget", self.load_budget, above=0)
            check_number("drain", self.drain, at_least=0)
            whole_number("threads", self.threads, InvalidOptionError, least=1)
            as_capacity("queue", self.queue)
            as_capacity("backlog", self.backlog)
        except (InvalidArgumentError, ValueError) as error:
            raise InvalidOptionError(str(error)) from error

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """Return the options that a mapping has, as it comes from JSON.

        Raises
        ------
        InvalidOptionError
            There is no option of a name, or its value is not accepted.
        """
        known = [field.name for field in fields(cls)]
        for name in options:
            if name not in known:
                raise InvalidOptionError(
                    f"there is no option {name!r}; there are {', '.join(known)}"
                )
        try:
            return cls(**options)
        except TypeError as error:
            raise InvalidOptionError(f"an option has a value of the wrong type: {error}") from error

    def open_store(self, identity: str) -> BlockStore:
        """Open the pool and the tiers, as a store that closes them.

        Raises
        ------
        KVPoolError
            The pool or a tier cannot be opened; the text says why.
        """
        tiers = manager = None
        try:
            if self.tiers:
                tiers = TierStore(self.tiers, queue_bytes=as_capacity("queue", self.queue))
            if self.pool is not None:
                manager = KVCacheManager(self.pool, self.backend, policy=self.policy, ttl=self.ttl)
            return BlockStore(
                identity,
                manager=manager,
                tiers=tiers,
                namespace=self.namespace,
                load_budget=self.load_budget,
                owned=True,
                drain=self.drain,
            )
        except BaseException:
            if tiers is not None:
                tiers.close(0.0)
            if manager is not None:
                manager.close()
            raise

    def open_jobs(self, name: str, **options: Any) -> Jobs:
        """Return the threads for a store; further options are those of `Jobs`."""
        return Jobs(self.threads, as_capacity("backlog", self.backlog), name, **options)
