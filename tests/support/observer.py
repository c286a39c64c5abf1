"""What the threads that use a manager saw of it, to hold against what its ledger says."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from kvpool import CacheKey, PoolEntry, PoolStats
from tests.support.accounts import LedgerAccount

__all__ = ["Life", "Witness", "check_account"]


@dataclass
class Life:
    """An entry, from being made until it left."""

    key: CacheKey
    number: int
    thread: int = field(default_factory=threading.get_ident)  # which noted it
    charges: list[int] = field(default_factory=list)  # bytes of its blocks, one after the other
    removed: bool = False  # by hand


class Witness:
    """Notes every block that a thread was given, and every end that it brought about.

    An entry is noted by the thread that made it. Only one thread makes and grows the entries
    of a key, or else all of them have one size: so nothing is missed between two looks.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lives: dict[PoolEntry, Life] = {}  # keeps the entries, so none is taken for another
        self.steps: list[list[CacheKey]] = []  # who had to go for one request

    def saw(self, key: CacheKey, entry: PoolEntry) -> Life:
        """Note an entry, and the block that it has now."""
        charge = entry.pool.charge(entry.block.size)
        with self._lock:
            number = len(self._lives) + 1
            life = self._lives.setdefault(entry, Life(key, number))
            if not life.charges or life.charges[-1] != charge:
                life.charges.append(charge)
        return life

    def removed(self, key: CacheKey, entry: PoolEntry | None) -> None:
        """Note an entry that was removed by hand."""
        if entry is not None:
            self.saw(key, entry).removed = True

    def evicted(self, keys: Sequence[CacheKey]) -> None:
        """Note who went in one step."""
        if len(keys) > 1:
            self.steps.append(list(keys))

    def lives(self) -> list[Life]:
        return list(self._lives.values())


def check_account(account: LedgerAccount, witness: Witness, stats: PoolStats) -> None:
    """Compare a ledger with what was seen, and with the figures of the pool before it closed."""
    lives = witness.lives()
    assert sorted(one.number for one in account.departures) == list(range(1, len(lives) + 1))
    _check_sessions(account, lives)
    _check_steps(account, witness)
    handed_out = sum(sum(life.charges) for life in lives)
    assert account.moved == sum(sum(life.charges[:-1]) for life in lives)
    assert account.allocated == handed_out == stats.bytes_allocated
    assert handed_out == sum(one.nbytes for one in account.departures) + account.moved
    still_there = [one for one in account.departures if one.reason == "close"]
    assert len(still_there) == stats.active_entries
    assert sum(one.nbytes for one in still_there) == stats.used_memory
    assert stats.bytes_freed == handed_out - stats.used_memory
    for reason, count in stats.evictions_by_reason.items():
        if reason != "close":
            assert count == sum(1 for one in account.departures if one.reason == reason), reason


def _check_sessions(account: LedgerAccount, lives: list[Life]) -> None:
    """Each entry left once, in the order in which its session's were made, with its last block."""
    seen: dict[str, list[Life]] = defaultdict(list)
    for life in lives:
        seen[str(life.key)].append(life)
    told = account.by_session()
    assert told.keys() == seen.keys()
    for session, departures in told.items():
        numbers = [one.number for one in departures]
        assert numbers == sorted(numbers)
        ends = [(one.nbytes, one.reason == "manual") for one in departures]
        noted = [(life.charges[-1], life.removed) for life in seen[session]]
        if len({life.thread for life in seen[session]}) > 1:  # they note in any order
            ends, noted = sorted(ends), sorted(noted)
        assert ends == noted, session


def _check_steps(account: LedgerAccount, witness: Witness) -> None:
    """What a caller was told of a step is what the ledger says: the same keys, in their order."""
    told = [[one.session for one in batch] for batch in account.batches]
    for step in witness.steps:
        assert [str(key) for key in step] in told
