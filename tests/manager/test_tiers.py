"""Sessions that begin with tokens from beyond the pool, and leave theirs there."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from kvpool.cache_key import CacheKey
from kvpool.errors import EntryRemovedError, InvalidTierError, TierError, UnknownPluginError
from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager
from kvpool.settings import Settings
from kvpool.tiers import TierStore, open_tier
from kvpool.tiers.memory import MemoryTier
from tests.support.computing import check, computed

LAYOUT = KVLayout(layers=2, kv_heads=2, head_dim=8, dtype="float32")


def serve(manager: KVCacheManager, tokens: Sequence[int], key: CacheKey | None = None) -> int:
    """Open a session, check what it holds, compute the rest, close it; return what was loaded."""
    opened = manager.open_session(tokens, key)
    entry, left = opened
    assert entry.token_count == len(tokens) - left
    check(entry, tokens)
    new = computed(tokens, len(tokens) - left, LAYOUT)
    entry.extend(new, -new)
    check(entry, tokens)
    manager.close_session(entry, tokens)
    manager.check_integrity()
    return opened.loaded


@pytest.fixture
def store() -> Iterator[TierStore]:
    with TierStore([MemoryTier(1 << 24)], chunk_tokens=16) as store:
        yield store


def opened(tiers: Any, capacity: int = 1 << 20) -> KVCacheManager:
    return KVCacheManager(capacity, "numpy", LAYOUT, receipts=False, chunk_tokens=16, tiers=tiers)


def test_another_manager_loads_what_one_has_stored(store: TierStore) -> None:
    with opened(store) as first:
        assert serve(first, range(100)) == 0
    with opened(store) as second:
        assert serve(second, range(120)) == 96
        stats = second.get_stats().prefix
        assert stats.tokens_by_source["loaded"] == stats.tokens_reused == 96
        assert serve(second, range(130)) == 0  # the pool holds them now
        assert second.get_stats().prefix.tokens_by_source["continued"] == 120


def test_loaded_tokens_are_reused_while_the_session_is_open(store: TierStore) -> None:
    with opened(store) as first:
        serve(first, range(64))
    with opened(store) as second:
        one = second.open_session(range(70))
        two = second.open_session(range(70))
        assert (one.loaded, two.loaded) == (64, 0)
        assert two.source in {"forked", "copied"}
        check(two.entry, range(70))
        second.check_integrity()


def test_the_last_token_is_never_loaded(store: TierStore) -> None:
    with opened(store) as first:
        serve(first, range(64))
    with opened(store) as second:
        found = second.open_session(range(64))
        assert (found.loaded, found.tokens_left) == (63, 1)
        check(found.entry, range(64))


def test_what_follows_in_the_pool_is_loaded_behind_it(store: TierStore) -> None:
    with opened(store) as first:
        serve(first, range(96))
    with opened(store) as second:
        entry, _ = second.open_session(range(20), CacheKey("chat", 1), min_left=0)
        second.close_session(entry, range(20))
        assert serve(second, range(100), CacheKey("chat", 1)) == 80


def test_a_tier_that_fails_is_a_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    tier = MemoryTier(1 << 24)
    with TierStore([tier], chunk_tokens=16) as store:
        with opened(store) as first:
            serve(first, range(64))

        def fail(*_: object) -> None:
            raise TierError("out of order")

        monkeypatch.setattr(tier, "read", fail)
        with opened(store) as second:
            assert serve(second, range(70)) == 0


def test_a_session_that_is_removed_while_it_loads_opens_and_tells_later() -> None:
    meddle: Callable[[], object] = list

    class Meddling(MemoryTier):
        def read(self, keys: Sequence[bytes], /) -> Any:
            meddle()
            return super().read(keys)

    with TierStore([Meddling(1 << 24)], chunk_tokens=16) as store:
        with opened(store) as first:
            serve(first, range(64))
        with opened(store) as second:
            meddle = second.clear
            entry, left = second.open_session(range(64))
            assert left == 64
            with pytest.raises(EntryRemovedError):
                entry.extend(*[computed(range(64), 0, LAYOUT)] * 2)
            second.check_integrity()
            meddle = second.close
            entry, left = second.open_session(range(64))
            assert left == 64


def test_many_threads_that_ask_for_the_same_tokens_get_the_right_ones(store: TierStore) -> None:
    with opened(store) as first:
        serve(first, range(160))
    failures: list[BaseException] = []

    def ask(manager: KVCacheManager, last: int) -> None:
        try:
            serve(manager, [*range(160), last])
        except BaseException as error:
            failures.append(error)

    with opened(store, 1 << 23) as second:
        threads = [threading.Thread(target=ask, args=(second, -n)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert second.get_stats().prefix.lookups == 8
        assert second.get_stats().prefix.tokens_reused == 8 * 160
        second.check_integrity()


RESTART = """
import sys
import numpy as np
from kvpool.manager import KVCacheManager
from tests.manager.test_tiers import LAYOUT, serve
with KVCacheManager("1MiB", "numpy", LAYOUT, receipts=False, chunk_tokens=16,
                    tiers=[sys.argv[1]]) as manager:
    print(serve(manager, range(200)))
"""


@pytest.mark.no_cover
def test_a_process_goes_on_where_an_earlier_one_ended(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RESTART, f"disk:{tmp_path / 'tier'}?capacity=16MiB"]
    root = Path(__file__).parents[2]
    said = [
        subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    ]
    assert said == ["0\n", "192\n"]


def test_closing_ends_a_store_of_its_own_and_no_other(store: TierStore, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    manager = opened(f"disk:{tmp_path / 'tier'}?capacity=16MiB")
    serve(manager, range(64))
    manager.close(drain=60, progress=lambda done, total: told.append((done, total)))
    manager.close()
    assert told[-1][0] == told[-1][1]
    opened(store).close()
    store.stats()
    with (
        TierStore([f"disk:{tmp_path / 'tier'}?capacity=16MiB"], chunk_tokens=16) as again,
        opened(again) as second,
    ):
        assert serve(second, range(64)) == 63


@pytest.mark.parametrize("tiers", [3, [], {"disk": 1}, ["disk"], [None]])
def test_what_is_not_a_tier_is_refused(tiers: Any) -> None:
    with pytest.raises(InvalidTierError):
        opened(tiers)


def test_settings_name_tiers(tmp_path: Path) -> None:
    url = f"disk:{tmp_path / 'tier'}?capacity=16MiB"
    settings = Settings.load(file=None, environment={"KVPOOL_TIERS": url}, chunk_tokens=16)
    with settings.open(LAYOUT, capacity="1MiB", backend="numpy") as manager:
        serve(manager, range(64))
    with settings.open(LAYOUT, capacity="1MiB", backend="numpy") as manager:
        assert serve(manager, range(70)) == 64


def test_a_manager_that_cannot_be_made_leaves_no_tier_open(tmp_path: Path) -> None:
    url = f"disk:{tmp_path}/kv?capacity=1MiB"
    with pytest.raises(UnknownPluginError) as caught:
        KVCacheManager(1 << 20, "numpy", LAYOUT, receipts="nowhere", tiers=url)
    open_tier(url).close()  # a process can open a directory once
    del caught  # until here, its traceback kept what the manager had
