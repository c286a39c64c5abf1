"""A real redis-server that fails in the middle of a replay: nothing wrong, and the run finishes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kvpool.replay import BlockLevel, BlockReplay, TraceRequest
from tests.support.redis_faults import FAULTS, FaultyServer, states_of

pytestmark = pytest.mark.integration

PROMPTS = [TraceRequest(0.0, 512 * 6, 1, tuple(range(n * 10, n * 10 + 6))) for n in range(12)]
POOL = 12  # blocks: two prompts
ALL = 6 * len(PROMPTS)


def in_time(call: Callable[[], None]) -> None:
    """Make a call that has to end."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(120)
    assert not thread.is_alive(), "a call of a tier keeps the replay"
    if errors:
        raise errors[0]


def one_round(replay: BlockReplay) -> int:
    """Serve each prompt once; return the blocks that a tier had."""
    before = tier_of(replay).hit_blocks
    for request in PROMPTS:
        replay.serve(request)
    return tier_of(replay).hit_blocks - before


def tier_of(replay: BlockReplay) -> BlockLevel:
    (tier,) = replay.report().tiers
    return tier


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_middle(
    tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "kvpool")
    with FaultyServer(tmp_path, fault) as server:
        url = f"{server.url}?budget=1"
        with BlockReplay(POOL, "lru", tiers=url) as replay:
            in_time(lambda: middle_of(replay, server, fault))
            report = replay.report()
            (tier,) = report.tiers
            states = states_of(caplog.records, tier.name)
    assert (report.checksum_failures, report.complete) == (0, True)
    assert report.requests >= 4 * len(PROMPTS)
    if fault in {"killed", "paused", "slow"}:
        assert states.startswith("D")
        assert states.endswith("A")
        assert tier.misses["unreachable"] > 0
    else:
        assert not states
        assert "unreachable" not in tier.misses
    if fault == "corrupted":
        assert tier.misses["digest"] == ALL  # each is found once, removed and written again
    if fault == "full":
        assert tier.refused > 0


def middle_of(replay: BlockReplay, server: FaultyServer, fault: str) -> None:
    """Serve two rounds, two while something happens, and more until all is as before."""
    assert one_round(replay) == 0
    assert one_round(replay) == ALL
    server.begin()
    during = one_round(replay)
    assert during == (ALL if fault == "full" else 0)
    if fault == "full":  # what is there is still read, and what is new is not written
        replay.serve(TraceRequest(0.0, 512, 1, (999,)))
    one_round(replay)
    server.end()
    until = time.monotonic() + 60
    while one_round(replay) < ALL:
        assert time.monotonic() < until, "the tier is not used again"
        time.sleep(0.2)
    replay.finish()
