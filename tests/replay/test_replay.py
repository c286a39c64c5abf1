from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from kvpool.cache_key import CacheKey
from kvpool.errors import InvalidLayoutError, InvalidTtlError, PluginError
from kvpool.eviction.base import EvictionReason
from kvpool.layout import KVLayout
from kvpool.replay import Replay, ReplayReport, TraceReader, TraceRequest
from kvpool.replay._generated import HASH_BLOCK_TOKENS, conversations

DATA = Path(__file__).parents[1] / "data"
LAYOUT = KVLayout(2, 2, 32, "float16")
TOKEN = LAYOUT.bytes_per_token


def served(
    requests: list[TraceRequest],
    capacity_tokens: int = 4096,
    *,
    backend: str = "numpy",
    ttl: float | None = None,
    hash_block_tokens: int | None = 8,
    elastic: bool = False,
    max_context_length: int | None = None,
    write: bool = True,
) -> tuple[list[CacheKey | None], ReplayReport]:
    """Serve all; return the session of each request, and the report."""
    with Replay(
        *(LAYOUT, capacity_tokens * TOKEN, backend),
        ttl=ttl,
        hash_block_tokens=hash_block_tokens,
        elastic=elastic,
        max_context_length=max_context_length,
        write=write,
    ) as replay:
        keys = [replay.serve(request) for request in requests]
        replay.finish()
        return keys, replay.report()


def evictions(report: ReplayReport) -> dict[str, int]:
    return {str(why): count for why, count in report.stats.evictions_by_reason.items() if count}


def of_a_file(name: str) -> tuple[list[TraceRequest], int | None]:
    with TraceReader(DATA / name) as reader:
        return list(reader), reader.hash_block_tokens


# -- small traces, figure by figure ------------------------------------------------------


def test_azure(backend: str) -> None:
    requests, hash_block_tokens = of_a_file("azure_small.csv")
    keys, report = served(requests, 1400, backend=backend, hash_block_tokens=hash_block_tokens)
    assert [key and key.id for key in keys] == [0, 1, 2, 3, 4]
    tally = report.tally
    assert (report.backend, report.complete, report.names_sessions) == (backend, True, False)
    assert (tally.requests, tally.rejected) == (5, 0)
    assert (tally.prompt_tokens, tally.generated_tokens) == (1623, 114)
    assert (tally.written_tokens, tally.written_bytes) == (1737, 1737 * TOKEN)
    assert (tally.reused_tokens, tally.forkable_tokens) == (0, 0)
    # The third request needs room: 1230 of 1400 tokens, 312 and 48 are taken.
    assert evictions(report) == {"lru": 2}
    left = 1230 + 69 + 78
    assert report.stats.used_memory == left * TOKEN
    assert tally.verified_bytes == (1737 + left) * TOKEN
    assert (tally.checksum_failures, tally.first_failures) == (0, [])


def test_mooncake(backend: str) -> None:
    requests, hash_block_tokens = of_a_file("mooncake_small.jsonl")
    keys, report = served(requests, 8192, backend=backend, hash_block_tokens=hash_block_tokens)
    # The third continues the first and the last the third; the second only begins like them.
    assert [key and key.id for key in keys] == [0, 1, 0, 2, 0]
    tally, stats = report.tally, report.stats
    assert report.names_sessions
    assert (stats.hits, stats.misses, stats.active_entries) == (2, 3, 3)
    assert tally.reused_tokens == 1024 + 1536
    assert tally.forkable_tokens == 512
    assert tally.written_tokens == tally.prompt_tokens + tally.generated_tokens - 2560
    assert evictions(report) == {}
    # What a hit finds is read before it is continued, and all that is left in the end.
    assert tally.verified_bytes == TOKEN * (
        (1320 + 705 + 1633 + 490 + 2049) + (1320 + 1633) + (2049 + 705 + 490)
    )
    assert tally.checksum_failures == 0


def figures_of_a_day(backend: str, elastic: bool = False) -> dict[str, object]:
    morning, afternoon = list(conversations(100, seed=3)), list(conversations(50, seed=4))
    later = [replace(request, arrival=request.arrival + 700) for request in afternoon]
    day = [*morning, *later]
    _, report = served(
        *(day, 9000), backend=backend, ttl=200, hash_block_tokens=HASH_BLOCK_TOKENS, elastic=elastic
    )
    assert report.tally.checksum_failures == 0
    assert report.stats.hits > 10
    assert {"lru", "ttl"} <= set(evictions(report))
    figures = report.as_dict()
    for name in ("backend", "seconds", "tokens_per_second", "bytes_per_second"):
        del figures[name]
    return figures


@pytest.fixture(scope="module")
def figures_of_numpy() -> dict[str, object]:
    return figures_of_a_day("numpy")


@pytest.mark.no_cover
def test_all_backends_come_to_the_same(backend: str, figures_of_numpy: dict[str, object]) -> None:
    assert figures_of_a_day(backend) == figures_of_numpy


# -- which session a request continues ---------------------------------------------------


def test_a_turn_continues_its_session_and_keeps_what_both_begin_with() -> None:
    turns = [
        TraceRequest(0, 20, 3, (1, 2, 3)),
        TraceRequest(1, 30, 3, (1, 2, 4, 5)),  # block 3 was not full
        TraceRequest(2, 30, 3, (1, 2, 4, 5)),  # the same prompt again
    ]
    keys, report = served(turns)
    assert len(set(keys)) == 1
    assert report.tally.reused_tokens == 16 + 30
    assert report.tally.checksum_failures == 0


def test_a_shorter_prompt_does_not_destroy_a_longer_session() -> None:
    keys, report = served([TraceRequest(0, 40, 3, (1, 2, 3, 4, 5)), TraceRequest(1, 16, 3, (1, 2))])
    assert [key and key.id for key in keys] == [0, 1]
    assert (report.stats.hits, report.tally.forkable_tokens) == (0, 16)


def test_the_longest_session_is_continued() -> None:
    requests = [
        TraceRequest(0, 8, 1, (1,)),
        TraceRequest(1, 24, 1, (7, 8, 9)),
        TraceRequest(2, 16, 1, (7, 8)),
        TraceRequest(3, 32, 1, (7, 8, 9, 10)),
    ]
    keys, report = served(requests)
    assert keys[3] == keys[1]
    assert report.tally.reused_tokens == 24


def test_two_sessions_with_the_same_prompt() -> None:
    """Only one can be found; it is continued and then it has another prompt."""
    same = TraceRequest(0, 16, 2, (1, 2))
    branch, other = TraceRequest(1, 24, 2, (1, 2, 3)), TraceRequest(2, 24, 2, (1, 2, 4))
    keys, report = served([same, branch, same, other, same])
    assert [key and key.id for key in keys] == [0, 0, 1, 1, 2]
    assert report.tally.checksum_failures == 0


def test_an_id_after_other_ids_than_before_is_no_hit() -> None:
    """No trace should have that; the pool is not to blame for it."""
    keys, report = served([TraceRequest(0, 16, 1, (1, 2)), TraceRequest(1, 24, 1, (5, 2, 6))])
    assert keys[0] != keys[1]
    assert report.tally.checksum_failures == 0


def test_an_id_of_a_block_that_was_not_full_is_as_long_as_what_was_written() -> None:
    """No trace should fill a block up and keep its id."""
    keys, report = served([TraceRequest(0, 20, 1, (1, 2, 3)), TraceRequest(1, 32, 1, (1, 2, 3, 4))])
    assert keys[0] == keys[1]
    assert report.tally.reused_tokens == 20
    assert report.tally.checksum_failures == 0


def test_an_evicted_session_is_not_continued() -> None:
    first = TraceRequest(0, 16, 0, (1, 2))
    keys, report = served([first, TraceRequest(1, 96, 4, tuple(range(10, 22))), first], 110)
    assert [key and key.id for key in keys] == [0, 1, 2]
    assert evictions(report) == {"lru": 2}
    assert report.tally.forkable_tokens == 0


def test_a_session_without_room_to_grow_beside_itself_starts_anew() -> None:
    turns = [TraceRequest(0, 56, 4, tuple(range(7))), TraceRequest(1, 64, 4, tuple(range(8)))]
    keys, report = served(turns, 100)
    assert [key and key.id for key in keys] == [0, 1]
    assert evictions(report) == {"manual": 1}
    assert (report.stats.hits, report.tally.reused_tokens) == (0, 0)
    assert report.tally.checksum_failures == 0


def test_sessions_are_idle_between_requests() -> None:
    with Replay(LAYOUT, 4096 * TOKEN, "numpy", hash_block_tokens=8) as replay:
        for request in conversations(20):
            replay.serve(replace(request, hash_blocks=()))
            assert not any(replay.manager.pool.is_leased(s.entry.block) for s in replay.sessions())
        assert {s.key for s in replay.sessions()} == set(replay.manager.session_keys())


# -- the clock ---------------------------------------------------------------------------


def test_sessions_expire_by_the_time_of_the_trace() -> None:
    requests = [TraceRequest(at, 16, 0, (1, 2)) for at in (1e9, 1e9 + 30, 1e9 + 59, 1e9 + 120)]
    keys, report = served(requests, ttl=30.5)
    assert [key and key.id for key in keys] == [0, 0, 0, 1]
    assert evictions(report) == {"ttl": 1}


def test_time_that_goes_back_stands_still() -> None:
    first, late = TraceRequest(100, 16, 0, (1, 2)), TraceRequest(0, 16, 0, (5, 6))
    keys, report = served([first, late, replace(late, arrival=129)], ttl=30)
    assert [key and key.id for key in keys] == [0, 1, 1]
    assert report.tally.checksum_failures == 0


# -- what does not fit -------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [101, 10**40])
def test_a_request_larger_than_the_pool_is_rejected_and_harms_nobody(tokens: int) -> None:
    small = TraceRequest(0, 90, 10, (1,))
    keys, report = served([small, TraceRequest(1, tokens, 0), small], 100, hash_block_tokens=None)
    assert [key and key.id for key in keys] == [0, None, 1]
    tally = report.tally
    assert (tally.requests, tally.rejected, tally.served) == (3, 1, 2)
    assert tally.prompt_tokens == 180
    assert evictions(report) == {"lru": 1}


@pytest.mark.parametrize(("prompt", "generated"), [(0, 7), (7, 0)])
def test_requests_with_only_a_prompt_or_only_a_reply(prompt: int, generated: int) -> None:
    _, report = served([TraceRequest(0, prompt, generated)], hash_block_tokens=None)
    assert report.tally.verified_bytes == 2 * 7 * TOKEN
    assert report.tally.checksum_failures == 0


def test_nothing_served() -> None:
    _, report = served([])
    shown = report.as_dict()
    assert (shown["requests"], shown["tokens_per_second"], shown["hit_rate"]) == (0, 0.0, 0.0)
    assert report.utilization.live_of_used == 0.0


def test_settings_that_cannot_be() -> None:
    with pytest.raises(PluginError, match="nowhere"):
        Replay(LAYOUT, 1 << 20, "nowhere")
    with pytest.raises(PluginError, match="whim"):
        Replay(LAYOUT, 1 << 20, policy="whim")
    with pytest.raises(InvalidTtlError, match="-1"):
        Replay(LAYOUT, 1 << 20, ttl=-1)
    with pytest.raises(InvalidLayoutError, match="float8"):
        KVLayout(1, 1, 1, "float8")


# -- figures -----------------------------------------------------------------------------


def test_what_is_there_after_a_request_counts_until_the_next() -> None:
    requests = [
        TraceRequest(5, 16, 9, (1, 2)),
        TraceRequest(6, 16, 0, (1, 2)),  # leaves 16 tokens in an entry with room for 25
        TraceRequest(8, 16, 9, (1, 2)),  # nothing comes after it, so it counts for nothing
    ]
    _, report = served(requests, 100)
    use = report.utilization
    assert math.isclose(use.live_of_used, (1 * 1 + 2 * 16 / 25) / 3)
    assert use.live_of_whole_blocks == use.live_of_used
    assert math.isclose(use.live_of_paged_blocks, (1 * 25 / 32 + 2 * 16 / 16) / 3)
    assert math.isclose(use.used_of_capacity, 0.25)
    assert use.peak_used == 25 * TOKEN
    assert use.fragmentation == 0.0


def test_where_the_clock_stands_still_each_request_counts_once() -> None:
    requests = [TraceRequest(5, 16, 9, (1, 2)), TraceRequest(5, 16, 0, (1, 2))]
    _, report = served(requests, 100)
    assert math.isclose(report.utilization.live_of_used, (1 + 16 / 25) / 2)


def test_the_report_is_json_and_does_not_count_on() -> None:
    with Replay(LAYOUT, 4096 * TOKEN, "numpy", hash_block_tokens=8) as replay:
        replay.serve(TraceRequest(0, 16, 0, (1, 2)))
        before = replay.report()
        replay.serve(TraceRequest(1, 16, 0, (1, 2)))
        after = replay.report()
    assert (before.tally.requests, before.complete) == (1, False)
    assert (after.tally.requests, after.stats.hits) == (2, 1)
    shown = json.loads(json.dumps(after.as_dict()))
    assert shown["evictions"] == {str(reason): 0 for reason in EvictionReason}
    assert shown["bytes"] == {"written": 16 * TOKEN, "verified": 48 * TOKEN}


def test_without_sessions_there_are_no_hit_figures() -> None:
    _, report = served([TraceRequest(0, 16, 0)], hash_block_tokens=None)
    shown = report.as_dict()
    assert [shown[name] for name in ("hits", "misses", "hit_rate")] == [None] * 3
    assert [shown["tokens"][name] for name in ("reused", "forkable")] == [None] * 2
