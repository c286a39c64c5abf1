from __future__ import annotations

import hashlib
import json
from datetime import date

import pytest

from milestones.records import GATES, Excluded, RecordError, parse, to_line, to_page

from .records import record, result


def test_a_record_is_read_as_it_was_written() -> None:
    excluded = [Excluded(test="tests/ä.py::b", reason="r", expires=date(2026, 5, 6))]
    one = record(excluded=excluded, gates=[result("lint", passed=False)])
    assert parse(to_line(one)) == one
    assert parse(to_page(one)) == one
    assert "\n" not in to_line(one)


def test_a_record_that_was_edited_does_not_count() -> None:
    original = json.loads(to_line(record(exit_code=1, scope="quick")))
    for key, value in {
        "exit_code": 0,
        "scope": "full",
        "tree": "9" * 40,
        "milestone": "demo/2",
        "seconds": 60.6,
        "gates": original["gates"][1:],
        "interpreters": {},
        "digest": "0" * 64,
    }.items():
        with pytest.raises(RecordError, match="changed after it was written"):
            parse(json.dumps(original | {key: value}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "malformed: the text: Invalid JSON"),
        (to_line(record())[:-20], "malformed: the text: Invalid JSON"),
        ("{}", "malformed: milestone: Field required"),
        (json.dumps(json.loads(to_line(record())) | {"format": 2}), "malformed: format"),
        (json.dumps(json.loads(to_line(record())) | {"exit_code": "0"}), "malformed: exit_code"),
        (json.dumps(json.loads(to_line(record())) | {"note": ""}), "malformed: note: Extra"),
    ],
)
def test_what_is_no_record_is_an_error_that_says_why(text: str, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        parse(text)


def test_six_of_six_is_green() -> None:
    one = record()
    assert one.green
    assert one.passed == GATES
    assert one.failed == ()


@pytest.mark.parametrize(
    "changed",
    [
        {"scope": "quick"},
        {"exit_code": 1},
        {"gates": [result(gate) for gate in GATES[1:]]},
        {"gates": [result(gate, passed=gate != "docs") for gate in GATES]},
        {"gates": [*(result(gate) for gate in GATES), result("test", passed=False)]},
        {"gates": []},
        {"started": ""},
        {"started": "2026-01-02T03:04:05"},
        {"seconds": 0.0},
        {"tools": {}},
        {"interpreters": {}},
        {"log": hashlib.sha256(b"").hexdigest()},
        {"log": "0" * 64},
    ],
    ids=[
        *("quick", "exit", "five", "failed", "twice", "none", "no time", "no zone", "no seconds"),
        *("no tools", "no Pythons", "empty log", "no log"),
    ],
)
def test_anything_less_is_not_green(changed: dict[str, object]) -> None:
    assert not record(**changed).green


def test_a_gate_that_failed_and_one_that_did_not_run_are_told_apart() -> None:
    one = record(gates=[result("build"), result("lint", passed=False)])
    assert one.passed == ("build",)
    assert one.failed == ("lint",)
