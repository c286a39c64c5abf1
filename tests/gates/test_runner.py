from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.gates.runner import GATES, QUICK, Outcome, report, run, select, summary, table
from tests.support.scratch_gates import write_noxfile


def test_no_word_selects_all_gates_in_their_order() -> None:
    assert select([]) == GATES
    assert select(["quick"]) == QUICK
    assert select(["docs", "build"]) == ("build", "docs")


def test_an_unknown_word_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match="unknown gate 'fast': not one of quick, build"):
        select(["docs", "fast"])


def test_a_failing_gate_leaves_the_others_alone(tmp_path: Path) -> None:
    noxfile = write_noxfile(tmp_path, {"test": "session.error('two tests failed')"})
    outcomes = run(["test", "docs"], noxfile)
    assert [(outcome.gate, outcome.passed) for outcome in outcomes] == [
        ("test", False),
        ("docs", True),
    ]
    assert outcomes[0].exit_code != 0
    assert "two tests failed" in outcomes[0].reason


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("session.skip('no time')", "no time"),
        ("raise OSError('disk full')", "failed"),
        ("import os; os._exit(0)", "nox ended without a report"),
    ],
)
def test_only_success_is_a_pass(tmp_path: Path, statement: str, reason: str) -> None:
    (outcome,) = run(["lint"], write_noxfile(tmp_path, {"lint": statement}))
    assert not outcome.passed
    assert reason in outcome.reason


def test_a_missing_interpreter_is_a_failure(tmp_path: Path) -> None:
    noxfile = write_noxfile(tmp_path)
    with noxfile.open("a", encoding="utf-8") as file:
        file.write("\n@nox.session(python='3.99')\ndef old(session):\n    pass\n")
        file.write("\nnox.options.error_on_missing_interpreters = False\n")
        file.write("nox.options.download_python = 'never'\n")
    (outcome,) = run(["old"], noxfile)
    assert not outcome.passed
    assert "3.99" in outcome.reason


def test_a_gate_that_does_not_exist_is_a_failure(tmp_path: Path) -> None:
    (outcome,) = run(["polish"], write_noxfile(tmp_path))
    assert not outcome.passed
    assert outcome.exit_code != 0


OUTCOMES = [
    Outcome("lint", passed=True, seconds=8.2, exit_code=0),
    Outcome("min_python", passed=False, seconds=61.04, exit_code=1, reason="why"),
]


def test_the_table_has_a_line_for_each_gate() -> None:
    assert table(OUTCOMES).splitlines() == [
        "gate       | result | seconds",
        "-----------|--------|--------",
        "lint       | passed |     8.2",
        "min_python | FAILED |    61.0",
    ]


def test_the_summary_counts_and_names() -> None:
    assert summary(OUTCOMES) == "ran 2 of 6 gates: 1 failed: min_python"
    assert summary(OUTCOMES[:1]) == "ran 1 of 6 gates: all of these passed"


def test_the_report_is_honest_about_what_did_not_run() -> None:
    every = [Outcome(gate, passed=True, seconds=1.0, exit_code=0) for gate in GATES]
    told = json.loads(report(every))
    assert told["complete"]
    assert told["passed"]
    assert not json.loads(report(every[1:]))["complete"]
    told = json.loads(report(OUTCOMES))
    assert not told["passed"]
    assert told["gates"][1] == {
        "gate": "min_python",
        "passed": False,
        "seconds": 61.04,
        "exit_code": 1,
        "reason": "why",
        "command": "",
        "notes": "",
    }


def test_a_gate_says_what_runs_it_alone_and_what_it_is(tmp_path: Path) -> None:
    noxfile = write_noxfile(tmp_path, {"format": '"""Gate: the code is formatted.\n\nMore."""'})
    (outcome,) = run(["format"], noxfile)
    assert outcome.command == "nox -s format"
    assert outcome.notes == "the code is formatted."


def test_no_outcome_is_no_pass() -> None:
    assert not json.loads(report([]))["passed"]
