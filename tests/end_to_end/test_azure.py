"""Real requests, served by several threads: every byte is checked, and is in the ledger."""

from __future__ import annotations

import gc
import random
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest
from numpy.typing import NDArray

from kvpool import CacheKey, KVCacheEntry, KVCacheManager, KVLayout
from kvpool.errors import EntryNotFoundError, EntryRemovedError
from kvpool.ledger import LedgerSink
from kvpool.replay import TokenTape, TraceReader, TraceRequest, request_spans
from tests.support import needs
from tests.support.accounts import LedgerAccount, verified
from tests.support.ledgers import PRIVATE
from tests.support.observer import Witness, check_account
from tests.support.serving import ticks
from tests.support.workers import Worker, run_all

pytestmark = pytest.mark.integration

LAYOUT = KVLayout(layers=1, kv_heads=2, head_dim=8, dtype="float32")  # 128 bytes a token
CAPACITY = 32 << 20
THREADS = 4


class Requests:
    """The requests of a trace, numbered; each goes to one of many threads."""

    def __init__(self, requests: Iterable[TraceRequest]) -> None:
        self._lock = threading.Lock()
        self._numbered = enumerate(requests)

    def take(self) -> tuple[int, TraceRequest] | None:
        with self._lock:
            return next(self._numbered, None)


class Engine(Worker):
    """Serves requests: writes the prompt, lets the entry grow for the answer, reads all of it.

    Parameters
    ----------
    manager : KVCacheManager
    witness : Witness
    requests : Requests
    number : int
        Of the thread.
    """

    tape: ClassVar[TokenTape] = TokenTape(LAYOUT)

    def __init__(
        self, manager: KVCacheManager, witness: Witness, requests: Requests, number: int
    ) -> None:
        super().__init__(number)
        self.manager, self.witness, self.requests = manager, witness, requests
        self.draws = random.Random(number)
        self.held: deque[tuple[NDArray[Any], bytes]] = deque()

    def work(self) -> None:
        while (taken := self.requests.take()) is not None:
            self.serve(*taken)
        while self.held:
            self.let_go()

    def serve(self, number: int, request: TraceRequest) -> None:
        key = CacheKey("azure", number)
        prompt, generated = request_spans(request, number, None)
        entry = self.open(key, request.prompt_tokens)
        entry.extend(*self.tape.tokens(prompt))
        if generated[0].length:
            assert self.find(key, request.tokens) is entry
            entry.extend(*self.tape.tokens(generated))
        assert self.tape.faults(entry, [*prompt, *generated]) == []
        self.manager.unpin(key)
        self.done["requests"] += 1
        self.part(key, entry)

    def open(self, key: CacheKey, tokens: int) -> KVCacheEntry:
        """Make the entry, and keep the others from having it evicted."""
        while True:
            entry = self.find(key, tokens)
            try:
                self.manager.pin(key)
            except EntryNotFoundError:  # it had to go before it was pinned
                self.done["once more"] += 1
            else:
                return entry

    def find(self, key: CacheKey, tokens: int) -> KVCacheEntry:
        ttl = 2000.0 if self.draws.random() < 0.2 else None
        entry = self.manager.get_or_create_cache(key, tokens, ttl=ttl)
        self.witness.saw(key, entry)
        return entry

    def part(self, key: CacheKey, entry: KVCacheEntry) -> None:
        """Leave the session; sometimes hold a view of it for a while, or remove it."""
        if self.draws.random() < 0.1 and entry.token_count < 2000:
            with suppress(EntryRemovedError):
                view = entry.keys()
                self.held.append((view, view.tobytes()))
        if self.draws.random() < 0.1:
            self.witness.removed(key, self.manager.remove_cache_entry(key))
        if len(self.held) > 3:
            self.let_go()

    def let_go(self) -> None:
        """End a lease; it shows what it showed, whatever became of its entry."""
        view, before = self.held.popleft()
        assert view.tobytes() == before


def test_the_ledger_accounts_for_every_byte_of_the_trace(backend: str, tmp_path: Path) -> None:
    ledger, witness = tmp_path / "pool.jsonl", Witness()
    sink = LedgerSink(ledger, key=PRIVATE, rotate_at=4 << 20)
    with (
        TraceReader(needs.traces() / "azure_conv_2023.csv") as trace,
        KVCacheManager(
            *(CAPACITY, backend, LAYOUT),
            clock=ticks(),
            receipts=sink,
            snapshot_interval=10_000,
            elastic=False,
        ) as manager,
    ):
        requests = Requests(trace)
        done = run_all([Engine(manager, witness, requests, number) for number in range(THREADS)])
        gc.collect()
        manager.check_integrity()
        manager.pool.check_integrity()
        stats = manager.get_stats()
    assert done["requests"] == 19366
    report, account = verified(ledger), LedgerAccount(ledger)
    assert len(report.files) > 3
    check_account(account, witness, stats)
    assert account.freed == account.allocated > 50 * CAPACITY
    assert {one.session for one in account.departures} == {f"azure/{n}" for n in range(19366)}
    assert {one.reason for one in account.departures} == {"manual", "lru", "ttl", "close"}
    assert any(one.pending for one in account.departures)
