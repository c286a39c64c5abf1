"""A short run of the soak of `nox -s nightly`: all calls, 8 threads, interrupts, a ledger."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOAK = """
import gc
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from tests.support.process_usage import arenas, open_files
from tests.support.soak import CALLS, SoakRound

backend, folder = sys.argv[2:]
before = arenas()
soak = SoakRound(backend, Path(folder), seed=1)
soak.run(seconds=3)
assert soak.problems == [], soak.problems
assert soak.calls.keys() == CALLS.keys(), soak.calls
assert soak.interrupts > 0
gc.collect()  # an interrupt is kept, with what it met, by whoever caught it
assert arenas() == before
assert open_files(folder) == []
print("flat")
"""


@pytest.mark.stress
@pytest.mark.skipif(sys.platform != "linux", reason="what is open is read from /proc")
def test_a_soak_finds_nothing_and_leaves_nothing(backend: str, tmp_path: Path) -> None:
    """It runs in a process that is not measured.

    An interrupt in the tracer of coverage would leave a lock of the tracer taken.
    """
    unmeasured = {name: text for name, text in os.environ.items() if "COVERAGE" not in name}
    done = subprocess.run(
        [sys.executable, "-I", "-c", SOAK, str(ROOT), backend, str(tmp_path)],
        env=unmeasured,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "flat\n"), done.stderr
