"""A short run of the soak of `nox -s nightly`: all calls, 8 threads, interrupts, a ledger."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.process_usage import arenas, open_files
from tests.support.soak import CALLS, SoakRound


@pytest.mark.stress
@pytest.mark.skipif(sys.platform != "linux", reason="what is open is read from /proc")
def test_a_soak_finds_nothing_and_leaves_nothing(backend: str, tmp_path: Path) -> None:
    before = arenas()
    soak = SoakRound(backend, tmp_path, seed=1)
    soak.run(seconds=3)
    assert soak.problems == []
    assert soak.calls.keys() == CALLS.keys()
    assert soak.interrupts > 0
    assert arenas() == before
    assert open_files(str(tmp_path)) == []
