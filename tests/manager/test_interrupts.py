"""What a manager holds after calls that were interrupted anywhere."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kvpool.eviction.registry import registry as policies
from tests.support.interrupted import POOLS, InterruptedSessions

pytestmark = pytest.mark.usefixtures("views_may_be_interrupted")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("backend", "elastic"), POOLS)
def test_sessions_are_right_after_interrupts(
    backend: str, elastic: bool, seed: int, tmp_path: Path
) -> None:
    """Books agree, no byte is lost, no call hangs, and the sealed ledger verifies."""
    if sys.platform != "linux" and (elastic or backend == "ctypes"):
        pytest.skip("elastic arenas are for Linux")
    sessions = InterruptedSessions(backend, elastic, seed, tmp_path / "ledger.jsonl")
    for _ in range(120):
        sessions.step()
    assert sessions.interruptions > 10
    sessions.close()


@pytest.mark.parametrize("policy", policies.names())
def test_every_policy_ranks_what_is_there_after_interrupts(policy: str, tmp_path: Path) -> None:
    """An item may have been on the way from one queue of the policy to another."""
    sessions = InterruptedSessions(
        "numpy", elastic=False, seed=2, ledger=tmp_path / "ledger.jsonl", policy=policy
    )
    for _ in range(150):
        sessions.step()
    assert sessions.interruptions > 10
    sessions.close()
