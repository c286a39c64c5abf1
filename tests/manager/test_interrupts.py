"""What a manager holds after calls that were interrupted anywhere."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.interrupted import POOLS, InterruptedSessions


@pytest.fixture(autouse=True)
def views_may_be_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the end of a view be interrupted: Python prints that, and goes on."""
    monkeypatch.setattr(sys, "unraisablehook", id)


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
