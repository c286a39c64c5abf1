"""The examples for transformers run, and do what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.version import Version

from tests.support import needs

pytestmark = pytest.mark.transformers

EXAMPLES = Path(__file__).parents[2] / "examples"


def output(name: str) -> str:
    if Version(needs.transformers().__version__) < Version("5.24"):
        pytest.skip("the examples call the parameter of a cache as releases from 5.24 on do")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", str(EXAMPLES / name)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_server_answers_everyone_in_turn_in_less_room_than_they_need() -> None:
    source = (EXAMPLES / "multi_session_server.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) < 100
    *answers, last = output("multi_session_server.py").splitlines()
    names = [line.split()[0] for line in answers]
    assert sorted(names) == sorted(["ada", "bo", "cy", "di", "eve"] * 3)
    assert len(set(names[:5])) >= 3  # nobody has all turns first
    assert all(re.fullmatch(r"\w+ +b['\"].*['\"]", line) for line in answers)
    figures = re.fullmatch(r"(\d) sessions in the pool, (\d+) evictions", last)
    assert figures is not None
    assert int(figures[1]) < 5
    assert int(figures[2]) >= 2


def test_a_shared_system_prompt_is_computed_once() -> None:
    *users, last = output("shared_system_prompt.py").splitlines()
    figures = [
        tuple(map(int, re.findall(r"(\d+) (?:tokens asked|computed)", line))) for line in users
    ]
    assert len(figures) == 5
    (asked, computed), *others = figures
    assert asked == computed > 900
    assert all(computed < 50 < asked for asked, computed in others)
    assert last == f"{sum(asked - computed for asked, computed in others)} tokens were reused"
