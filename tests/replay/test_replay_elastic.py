"""Replays in pools that charge pages, and those that count tokens without writing them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kvpool.errors import InvalidLayoutError, UnsupportedError
from kvpool.layout import PACKINGS, KVLayout, Packing
from kvpool.replay import Replay, ReplayReport, TraceRequest
from kvpool.replay._generated import HASH_BLOCK_TOKENS, conversations
from tests.support.marks import needs_pages

pytestmark = needs_pages

LAYOUT = KVLayout(2, 2, 128, "float16")
TOKEN = LAYOUT.bytes_per_token
PAGE = 4096
RUNS = 8  # of 16 tokens a page
ELASTIC = pytest.mark.parametrize("elastic_backend", ["mmap", "ctypes"])


def served(requests: list[TraceRequest], capacity: int, **options: Any) -> ReplayReport:
    with Replay(LAYOUT, capacity, options.pop("backend", "mmap"), **options) as replay:
        for request in requests:
            replay.serve(request)
        replay.finish()
        return replay.report()


@ELASTIC
def test_an_entry_costs_the_pages_of_its_tokens(elastic_backend: str) -> None:
    requests = [TraceRequest(0, 20, 12), TraceRequest(1, 17, 0), TraceRequest(2, 1, 0)]
    report = served(requests, 64 * PAGE, backend=elastic_backend, max_context_length=1 << 20)
    assert report.elastic
    assert report.stats.used_memory == (2 + 2 + 1) * RUNS * PAGE == report.committed_by_system
    assert report.stats.reserved_memory == 3 * (1 << 20) * TOKEN
    use = report.utilization
    assert use.live_of_used == use.live_of_paged_blocks == (32 / 32 + 49 / 64) / 2
    assert use.live_of_whole_blocks == (32 / (1 << 20) + 49 / (2 << 20)) / 2
    assert report.tally.checksum_failures == 0


def figures(**options: Any) -> dict[str, Any]:
    day = list(conversations(150, seed=3))
    report = served(day, 12 << 20, ttl=200, hash_block_tokens=HASH_BLOCK_TOKENS, **options)
    assert report.tally.checksum_failures == 0
    assert report.stats.hits > 10
    assert report.stats.evictions > 10
    shown = report.as_dict()
    for name in ("backend", "seconds", "tokens_per_second", "bytes_per_second"):
        del shown[name]
    return shown


@pytest.mark.no_cover
@pytest.mark.parametrize("max_context_length", [None, 1 << 17])
def test_elastic_backends_come_to_the_same(max_context_length: int | None) -> None:
    one = figures(backend="mmap", max_context_length=max_context_length)
    two = figures(backend="ctypes", max_context_length=max_context_length)
    assert one == two
    assert one["utilization"]["committed_by_system_at_end"] is not None


@pytest.mark.no_cover
def test_counting_comes_to_the_same_as_writing() -> None:
    """All that is charged, who is evicted and what is found again: but no byte."""
    written, counted = figures(), figures(write=False)
    assert written.pop("bytes") != counted.pop("bytes") == {"written": 0, "verified": 0}
    assert (written.pop("bytes_are_written"), counted.pop("bytes_are_written")) == (True, False)
    used, system = "used_bytes_in_arena_at_end", "committed_by_system_at_end"
    assert written["utilization"].pop(system) == written["utilization"][used]
    assert counted["utilization"].pop(system) is None
    assert written == counted


@pytest.mark.parametrize("packing", PACKINGS)
def test_every_packing_is_written_and_checked(packing: Packing) -> None:
    layout = KVLayout(2, 2, 32, "float16", packing)
    with Replay(layout, 16 << 20, "mmap", hash_block_tokens=HASH_BLOCK_TOKENS) as replay:
        for request in conversations(30):
            replay.serve(request)
        entry = replay.sessions()[3].entry
        replay.finish()
        assert replay.report().tally.checksum_failures == 0
        entry.value(1, writeable=True)[0, 7, 31] += 1
        replay.finish()
        failures = replay.report().tally.first_failures
    assert failures == [f"{entry.session_id}: values of layer 1, head 0"]


def test_whole_blocks_are_charged_where_that_is_asked_for() -> None:
    request = TraceRequest(0, 20, 12)
    report = served([request], 64 * PAGE, elastic=False, max_context_length=40)
    assert (report.elastic, report.stats.used_memory) == (False, 40 * TOKEN)
    assert report.utilization.live_of_used == report.utilization.live_of_whole_blocks == 32 / 40
    assert report.committed_by_system is None


@pytest.mark.parametrize(
    ("tokens", "rejected"), [(128, 0), (129, 1), (1 << 17, 1), (1 << 60, 1), (10**40, 1)]
)
def test_a_request_is_rejected_by_the_pages_of_its_tokens(tokens: int, rejected: int) -> None:
    report = served([TraceRequest(0, tokens, 0)], 64 * PAGE, max_context_length=1 << 20)
    assert report.tally.rejected == rejected


@pytest.mark.parametrize(("tokens", "rejected"), [(40, 0), (41, 1)])
def test_a_request_longer_than_an_entry_is_rejected(
    backend: str, tokens: int, rejected: int
) -> None:
    request = TraceRequest(0, tokens, 0)
    report = served([request], 1 << 20, backend=backend, max_context_length=40)
    assert report.tally.rejected == rejected


def test_an_entry_larger_than_the_address_space_is_rejected() -> None:
    report = served([TraceRequest(0, 1, 0)], 1 << 20, max_context_length=1 << 50)
    assert report.tally.rejected == 1


# -- branches ----------------------------------------------------------------------------


@pytest.mark.parametrize("write", [True, False])
def test_a_branch_shares_what_it_keeps_and_is_checked(write: bool) -> None:
    with Replay(LAYOUT, 64 * RUNS * PAGE, "mmap", hash_block_tokens=16, write=write) as replay:
        replay.serve(TraceRequest(0, 150, 10, tuple(range(10))))
        (parent,) = replay.sessions()
        fork = replay.branch(parent, 100)
        of_fork = replay.branch(fork, 32)
        replay.finish()
        report, usages = replay.report(), replay.manager.pool.usage()
    assert [session.entry.token_count for session in (parent, fork, of_fork)] == [160] * 3
    assert [usage.is_fork for usage in usages] == [False, True, True]
    own = {fork.entry.block: 4, of_fork.entry.block: 8, parent.entry.block: 10}
    assert {usage.block: usage.committed for usage in usages} == {
        block: pages * RUNS * PAGE for block, pages in own.items()
    }
    assert report.tally.written_tokens == 160 + 60 + 128
    assert report.tally.checksum_failures == 0
    assert report.used_in_arena == 10 * RUNS * PAGE
    assert report.committed_by_system == (report.used_in_arena if write else None)


def test_a_broken_branch_is_found() -> None:
    with Replay(LAYOUT, 64 * RUNS * PAGE, "mmap") as replay:
        replay.serve(TraceRequest(0, 150, 10))
        fork = replay.branch(replay.sessions()[0], 100)
        keys = fork.entry.key(1)
        keys.setflags(write=True)
        keys[1, 120] = 1  # of its own
        del keys
        replay.finish()
        assert replay.report().tally.first_failures == [f"{fork.key}: keys of layer 1, head 1"]


def test_a_branch_is_a_copy_where_nothing_can_be_shared() -> None:
    with Replay(LAYOUT, 64 * RUNS * PAGE, "numpy") as replay:
        replay.serve(TraceRequest(0, 150, 10))
        replay.branch(replay.sessions()[0], 100)
        replay.finish()
        report = replay.report()
    assert (report.stats.forks, report.stats.copied_forks) == (0, 1)
    assert report.tally.checksum_failures == 0


def test_settings_that_cannot_be() -> None:
    with pytest.raises(InvalidLayoutError, match="max_context_length must be at least 1, not 0"):
        Replay(LAYOUT, 1 << 20, max_context_length=0)
    with pytest.raises(UnsupportedError, match="numpy"):
        Replay(LAYOUT, 1 << 20, "numpy", elastic=True)


def test_the_report_says_how_it_was_run() -> None:
    report = served([TraceRequest(0, 1, 0)], 1 << 20, max_context_length=77, write=False)
    shown = json.loads(json.dumps(report.as_dict()))
    wanted = ("elastic", "max_context_length", "bytes_are_written")
    assert [shown[name] for name in wanted] == [True, 77, False]
