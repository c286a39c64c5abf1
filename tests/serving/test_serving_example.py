"""The example of an engine runs, and does what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import needs

pytestmark = pytest.mark.transformers

EXAMPLE = Path(__file__).parents[2] / "examples/serving_engine.py"


def test_users_are_answered_side_by_side_and_share_a_prompt() -> None:
    needs.transformers()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLE)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    *turns, last = done.stdout.splitlines()
    rows = [re.match(r"(\w+) +(\d+) of (\d+) tokens reused:", row) for row in turns]
    assert all(rows)
    found = [(row[1], int(row[2]), int(row[3])) for row in rows if row is not None]
    assert sorted(user for user, _, _ in found) == sorted(["ada", "bo", "cy", "di", "eve"] * 2)
    assert sum(reused == 0 for _, reused, _ in found) == 1  # who computed the system prompt
    assert sum(reused > 200 for _, reused, _ in found) == 9
    figures = re.fullmatch(r"(\d+) tokens in (\d+) steps of the model", last)
    assert figures is not None
    assert int(figures[1]) > 2 * int(figures[2])
