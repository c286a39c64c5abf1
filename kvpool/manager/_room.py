"""`EvictingRoom`: where sessions get their bytes, and who is evicted for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from kvpool.cache_key import CacheKey
from kvpool.entry import KVCacheEntry
from kvpool.errors import BrokenPluginError, PoolExhaustedError
from kvpool.layout import EntryGeometry
from kvpool.manager._departures import Departures
from kvpool.manager._session import Session
from kvpool.manager._shortage import explained
from kvpool.manager._tiers import Beyond
from kvpool.pool import MemoryBlock, MemoryPool
from kvpool.prefix import Cut, Ranking

if TYPE_CHECKING:
    from kvpool.receipts import ReceiptEmitter

__all__ = ["EvictingRoom"]

B = TypeVar("B", bound="MemoryBlock | None")


class _NotSavedError(Exception):
    """Victims are not stored yet; it does not leave this module."""

    def __init__(self, blocks: list[MemoryBlock]) -> None:
        super().__init__("the tokens of victims are not stored")
        self.blocks = blocks


def _made_room(
    pool: MemoryPool, nbytes: int, victims: Iterator[MemoryBlock], **options: Any
) -> tuple[None, list[MemoryBlock]]:
    """Have a pool make room; return no block, and the victims."""
    return None, pool.make_room(nbytes, victims, **options)


def _ask_for(saved: set[MemoryBlock], chosen: list[MemoryBlock]) -> None:
    """Raise an error unless all chosen victims are saved."""
    missing = [block for block in chosen if block not in saved]
    if missing:
        raise _NotSavedError(missing)


class EvictingRoom:
    """Hands out blocks of a pool, and evicts sessions and held tokens for them.

    It is the `kvpool.entry.Room` of the entries of one manager. Not thread-safe: the manager holds
    its lock around every call.

    Parameters
    ----------
    pool : MemoryPool
    sessions : dict of CacheKey to Session
        The sessions that are there.
    ranking : Ranking
        In which order they are evicted.
    departures : Departures
        How they leave.
    receipts : ReceiptEmitter or None
    owner : object
        Names the blocks of these sessions, see `MemoryBlock.owner`.
    beyond : Beyond or None
        Gets the tokens that are evicted, before their bytes are free.

    Attributes
    ----------
    priorities : set of int
        Those that sessions have had.
    """

    def __init__(
        self,
        pool: MemoryPool,
        sessions: dict[CacheKey, Session],
        ranking: Ranking,
        departures: Departures,
        receipts: ReceiptEmitter | None,
        owner: object,
        beyond: Beyond | None = None,
    ) -> None:
        self._pool = pool
        self._sessions = sessions
        self._ranking = ranking
        self._departures = departures
        self._receipts = receipts
        self._owner = owner
        self._beyond = beyond
        self.priorities = {0}

    def allocate(self, size: int) -> MemoryBlock:
        """Take a block without a layout, evicting others if it does not fit otherwise."""
        if self._ranking.tree.ends and self._pool.is_elastic:
            self.shrink(self._pool.charge(size))
        evict = partial(self._pool.allocate_evicting, size, owner=self._owner)
        return self._evicting(evict)[0]

    def reserve(self, geometry: EntryGeometry, committed: int = 0) -> MemoryBlock:
        """Reserve a block, evicting others if it does not fit otherwise, all in one step.

        Parameters
        ----------
        geometry : EntryGeometry
        committed : int, default 0
            Bytes at the start of each stripe to be committed as well.
        """
        if committed and self._ranking.tree.ends and self._pool.is_elastic:
            self.shrink(self._pool.cost(geometry, committed // geometry.token_stride))
        pool = self._pool
        evict = partial(pool.reserve_evicting, geometry, committed=committed, owner=self._owner)
        return self._evicting(evict)[0]

    def commit(self, block: MemoryBlock, start: int, end: int) -> None:
        """Commit bytes of each stripe of a block, evicting others for them."""
        while True:  # again if another thread took the room that was made
            try:
                self._pool.commit(block, None, start, end)
            except PoolExhaustedError as shortage:
                missing = shortage.requested
            else:
                return
            self.make_room(missing)

    def give_up(self, block: MemoryBlock) -> None:
        """Deallocate a block that an entry has left, or that did not become an entry."""
        charged = block.charged
        self._pool.deallocate(block)
        if self._receipts is not None:
            self._receipts.note_moved(charged)

    def make_room(self, nbytes: int) -> list[CacheKey]:
        """Evict in the order of the policy until `nbytes` may be used; return the keys."""
        ended = self.shrink(nbytes) if self._ranking.tree.ends else []
        keys = self._evicting(partial(_made_room, self._pool, nbytes))[1]
        return ended + keys

    def shrink(self, nbytes: int) -> list[CacheKey]:
        """Drop tails of held tokens until `nbytes` may be used, if that is enough.

        Only in an elastic pool: in a rigid one a tail frees nothing.

        Returns
        -------
        list of CacheKey
            Sessions that ended.
        """
        ended: list[CacheKey] = []
        free = self._pool.stats().free if self._pool.is_elastic else nbytes
        while free < nbytes:
            plan = self._ranking.plan(nbytes - free, self._charged, *self._stages())
            if plan is None:
                break  # the pool knows better what is shared; it ends whole sessions
            ended += self._carry_out(plan)
            before, free = free, self._pool.stats().free
            if free <= before:
                break
        return ended

    def shrink_to(self, tokens: int) -> None:
        """Drop tails of held tokens until at most `tokens` are held, as far as possible."""
        missing = self._ranking.tree.token_count - max(tokens, 0)
        if missing > 0:
            plan = self._ranking.plan(missing, self._charged, *self._stages(), by_tokens=True)
            self._carry_out(plan or [])

    def _evicting(
        self, evict: Callable[..., tuple[B, list[MemoryBlock]]]
    ) -> tuple[B, list[CacheKey]]:
        """Let the pool evict sessions, store their tokens before it does, and forget them.

        Parameters
        ----------
        evict : callable
            Takes the victims; returns a block, if it takes one, and the blocks that have ended.

        Returns
        -------
        block : MemoryBlock or None
            Is given up if what follows fails.
        keys : list of CacheKey
            Of the sessions that ended.
        """
        deallocations = self._departures.begin(self._ranking.reason)
        saved: set[MemoryBlock] = set()
        leaving = None if self._beyond is None else partial(_ask_for, saved)
        while True:  # again if victims were chosen that are not stored: the pool has ended none
            offered: dict[MemoryBlock, CacheKey] = {}
            try:
                block, gone = evict(
                    self._victims(offered), deallocations=deallocations, leaving=leaving
                )
            except _NotSavedError as error:
                chosen = error.blocks
            except PoolExhaustedError as shortage:
                raise explained(shortage, self._sessions, self._pool.capacity) from None
            else:
                break
            for one in chosen:
                self.save(offered[one])
            saved.update(chosen)
        if not gone:
            return block, []
        keys = list(map(offered.__getitem__, gone))
        try:
            self._departures.finish(keys)
        except BaseException:  # from the policy, which is not ours
            if block is not None:
                self.give_up(block)
            raise
        return block, keys

    def save(self, key: CacheKey, start: int = 0) -> None:
        """Have the tokens of a session from `start` on stored, as far as they are known."""
        if self._beyond is not None:
            session = self._sessions[key]
            held, entry = session.held, session.entry
            if held is not None and isinstance(entry, KVCacheEntry):
                self._beyond.save(*held, entry, start)

    def _charged(self, key: CacheKey) -> int:
        return self._sessions[key].entry.block.charged

    def may_end(self, key: CacheKey) -> bool:
        """Tell whether a session may be evicted for room now.

        Raises
        ------
        BrokenPluginError
            There is no such session: the policy has made it up.
        """
        session = self._sessions.get(key)
        if session is None:
            raise self._broken(f"yields {key!s}, which has no entry")
        return session.is_evictable and not session.entry.block.is_leased

    def _stages(self) -> list[Callable[[CacheKey], bool]]:
        """Return who may be evicted: first sessions of the lowest priority alone, and so on."""
        if len(self.priorities) == 1:
            return [self.may_end]

        def may_end_up_to(priority: int, key: CacheKey) -> bool:
            return self.may_end(key) and self._sessions[key].priority <= priority

        return [partial(may_end_up_to, level) for level in sorted(self.priorities)]

    def _carry_out(self, plan: list[Cut | CacheKey]) -> list[CacheKey]:
        """Do what `Ranking.plan` chose; return the keys of the sessions that ended."""
        ended: list[CacheKey] = []
        for step in plan:
            if isinstance(step, CacheKey):
                gone = [step]
            else:
                self.save(step.segment.holders[0], step.end)
                shortened, gone = self._ranking.tree.cut(step)
                for key in shortened:
                    self._sessions[key].keep(step.end)
            if not gone:
                continue
            deallocations = self._departures.begin(self._ranking.reason)
            for key in gone:
                self._pool.deallocate(self._sessions[key].entry.block, deallocations)
            self._departures.finish(gone)
            ended += gone
        return ended

    def _victims(self, offered: dict[MemoryBlock, CacheKey]) -> Iterator[MemoryBlock]:
        """Yield the blocks of sessions that are not pinned, by priority and then by policy.

        `offered` is given the key of each.

        Raises
        ------
        BrokenPluginError
            The policy yields a key twice, or one that is not the key of a session.
        """
        ranking = self._ranking
        is_plain = not ranking.tree.segments  # the policy ranks sessions alone
        for level in sorted(self.priorities):
            passed_over: set[CacheKey] = set()
            for key in ranking.policy.victims() if is_plain else ranking.victims():
                if not isinstance(key, CacheKey) or key not in self._sessions:
                    raise self._broken(f"yields {key!s}, which has no entry")
                session = self._sessions[key]
                if session.priority == level and not (session.pins or session.is_open):
                    block = session.entry.block
                    if block in offered:
                        raise self._broken(f"yields {key!s} twice")
                    offered[block] = key
                    yield block
                elif key in passed_over:  # it might come for ever
                    raise self._broken(f"yields {key!s} twice")
                else:
                    passed_over.add(key)

    def _broken(self, how: str) -> BrokenPluginError:
        return BrokenPluginError(
            f"the eviction policy {type(self._ranking.policy).__name__} {how}; nothing was evicted"
        )
