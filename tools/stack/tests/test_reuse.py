"""A gate whose inputs have not changed does not run again, and everybody can see that."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from milestones import environment, reuse
from milestones.evidence import Store, judge
from milestones.records import GATES, Record, seal

from .records import fields, record_of, result
from .scratch import Make, Scratch
from .test_verify import records

ONLY = '[ -z "${KVPOOL_ONLY_GATES:-}" ]'


def taken(record: Record) -> list[str]:
    return [one.gate for one in record.gates if one.reused is not None]


@pytest.fixture
def proved(make: Make) -> tuple[Scratch, Record]:
    """The first milestone is verified; its branch is checked out."""
    scratch = make(first_verified)
    return scratch, records(scratch, "HEAD")[0]


def first_verified(scratch: Scratch) -> None:
    assert scratch.run("verify", "demo/1").exit_code == 0
    scratch.git("switch", "--quiet", "feat/demo-1")


def plan_anew(scratch: Scratch) -> None:
    scratch.change_manifest('title = "Part 3"', 'title = "Part three"')
    scratch.commit("Another title")


def test_only_what_reads_pages_runs_again_if_only_pages_have_changed(
    proved: tuple[Scratch, Record],
) -> None:
    scratch, first = proved
    plan_anew(scratch)
    said = scratch.run("verify", "demo/1")
    assert said.exit_code == 0, said.text
    (second,) = records(scratch, "HEAD")
    assert taken(second) == ["build", "test", "lint", "format", "min_python"]
    assert {one.reused for one in second.gates} == {None, first.digest}
    assert second.green
    assert second.log != first.log
    assert "taken from earlier runs: build test lint format min_python" in said.text
    assert f"demo/1  test: not again, its inputs are those of {first.digest[:12]}" in said.text
    assert scratch.status()["demo/1"]["evidence"]["text"] == "6/6 (5 from earlier runs)"
    scratch.run("render", "--refresh")
    page = (scratch.root / "docs/stack/demo/1.md").read_text(encoding="utf-8")
    assert f"| `lint` | passed, in the run of record `{first.digest[:12]}`: its inputs" in page


def test_what_was_taken_is_taken_from_the_run_and_not_from_the_copy(
    proved: tuple[Scratch, Record],
) -> None:
    scratch, first = proved
    plan_anew(scratch)
    scratch.run("verify", "demo/1")
    scratch.change_manifest("Part three", "Part drei")
    scratch.commit("One more title")
    scratch.run("verify", "demo/1")
    (third,) = records(scratch, "HEAD")
    assert {one.reused for one in third.gates} == {None, first.digest}


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("src/part1.sh", "answer1=01\n"),
        ("docs/stack/README.md", "What people wrote.\n"),
        ("requirements/nox.txt", "# other tools\n"),
    ],
)
def test_any_other_file_is_an_input_of_every_gate(
    proved: tuple[Scratch, Record], path: str, text: str
) -> None:
    scratch, _ = proved
    scratch.commit("Another thing", {path: text})
    scratch.run("verify", "demo/1")
    assert taken(records(scratch, "HEAD")[0]) == []


def test_everything_runs_if_asked_to(proved: tuple[Scratch, Record]) -> None:
    scratch, _ = proved
    plan_anew(scratch)
    scratch.run("verify", "demo/1", "--again")
    assert taken(records(scratch, "HEAD")[0]) == []


def test_every_key_is_an_input(proved: tuple[Scratch, Record]) -> None:
    scratch, first = proved
    git = scratch.repository
    found = Store(git).read()
    keys = environment.keys(git, first.tree)
    assert set(reuse.reusable(git, found, keys)) == set(GATES)
    others: list[dict[str, Any]] = [
        {"os": "Plan 9"},
        {"tools": {"git": "1.0"}},
        {"interpreters": {}},
        {"excluded": ("tests/part1.sh::all",)},
        {"definitions": "0" * 64},
        {"locks": "0" * 64},
    ]
    for changed in others:
        assert reuse.reusable(git, found, dataclasses.replace(keys, **changed)) == {}, changed


def test_the_newest_run_decides_whether_a_gate_has_passed(
    proved: tuple[Scratch, Record],
) -> None:
    scratch, first = proved
    gates = [one.model_copy(update={"passed": one.gate != "test"}) for one in first.gates]
    values = {name: getattr(first, name) for name in fields()}
    failed = seal(**values | {"gates": gates, "exit_code": 1})
    Store(scratch.repository).add(failed)
    plan_anew(scratch)
    scratch.run("verify", "demo/1")
    assert taken(records(scratch, "HEAD")[0]) == ["build", "lint", "format", "min_python"]


def test_a_script_that_runs_all_of_them_is_believed(scratch: Scratch) -> None:
    """An old script knows nothing of a choice: what it ran counts, and nothing is taken."""
    path = scratch.root / "scripts/ci-local.sh"
    for branch in ("main", "feat/demo-1"):
        scratch.git("switch", "--quiet", branch)
        text = "".join(
            line
            for line in path.read_text(encoding="utf-8").splitlines(keepends=True)
            if not line.startswith(ONLY)
        )
        scratch.commit("An older script", {"scripts/ci-local.sh": text})
    scratch.run("verify", "demo/1")
    plan_anew(scratch)
    assert scratch.run("verify", "demo/1").exit_code == 0
    assert taken(records(scratch, "HEAD")[0]) == []


def test_quick_gates_need_not_run_again_in_the_full_run(scratch: Scratch) -> None:
    scratch.run("verify", "demo/1", "--quick")
    assert scratch.run("verify", "demo/1").exit_code == 0
    full = records(scratch, "feat/demo-1")
    assert sorted(taken(record) for record in full) == [[], ["lint", "format", "docs"]]


def test_a_quick_run_takes_nothing_and_foretells_no_end(proved: tuple[Scratch, Record]) -> None:
    scratch, _ = proved
    plan_anew(scratch)
    said = scratch.run("verify", "demo/1", "--quick").text
    assert taken(records(scratch, "HEAD")[0]) == []
    assert "demo/1  lint, last time 0 s\n" in said
    assert "not again" not in said


def test_one_gate_runs_even_if_none_need_to(proved: tuple[Scratch, Record]) -> None:
    """So that every record has a log of its own."""
    scratch, _ = proved
    scratch.commit("Settings", {"pyproject.toml": "[tool.milestones]\nreads_pages = []\n"})
    scratch.run("verify", "demo/1", "--again")
    plan_anew(scratch)
    assert scratch.run("verify", "demo/1").exit_code == 0
    assert len(taken(records(scratch, "HEAD")[0])) == 5


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"seconds": 0.5}, "takes lint from a record that does not have it so"),
        ({"passed": False}, "takes lint from a record that does not have it so"),
    ],
)
def test_a_gate_that_was_not_so_in_its_record_does_not_count(
    scratch: Scratch, changed: dict[str, object], reason: str
) -> None:
    store, git = Store(scratch.repository), scratch.repository
    gates = [
        one.model_copy(update=changed if one.gate == "lint" else {}) for one in map(result, GATES)
    ]
    origin = record_of(git, "feat/demo-1", gates=gates, exit_code=int("passed" in changed))
    store.add(origin)
    mine = [
        one.model_copy(update={"reused": origin.digest if one.gate == "lint" else None})
        for one in map(result, GATES)
    ]
    store.add(record_of(git, "feat/demo-1", gates=mine))
    evidence = judge(store.read(), "demo/1", git.tree("feat/demo-1"))
    assert [fault.partition(": ")[2] for fault in evidence.faults] == [reason]


def test_a_gate_of_other_inputs_does_not_count(scratch: Scratch) -> None:
    store, git = Store(scratch.repository), scratch.repository
    origin = record_of(git, "feat/demo-2", milestone="demo/2")
    store.add(origin)
    mine = [one.model_copy(update={"reused": origin.digest}) for one in map(result, GATES)]
    store.add(record_of(git, "feat/demo-1", gates=mine))
    evidence = judge(store.read(), "demo/1", git.tree("feat/demo-1"))
    assert evidence.verdict == "none"
    assert "takes build from a record with other inputs" in evidence.faults[0]


def test_what_is_shown_tells_how_long_it_takes(proved: tuple[Scratch, Record]) -> None:
    scratch, first = proved
    seconds = {one.gate: one.seconds for one in first.gates}
    said = scratch.run("verify", "demo/1", "--again").text
    total = sum(seconds.values())
    assert f"begins at {first.commit[:12]}, about {total:.0f} s by the last runs" in said
    for gate in GATES:
        shown = re.search(rf"demo/1  {gate}, last time (\d+) s; about (\d+) s to the end", said)
        assert shown is not None
        assert abs(int(shown[1]) - seconds[gate]) < 1  # rounded
        assert abs(int(shown[2]) - total) < 1
        assert f"demo/1  {gate}: " in said
        total -= seconds[gate]
