"""A record that CI makes of its own run: what it says, who signs it, and how it comes here."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from milestones import signing
from milestones.evidence import NOTES
from milestones.records import parse, to_page

from .records import record_of
from .scratch import Scratch
from .test_signing import key

__all__ = ["key"]  # a fixture

STARTED = "2026-05-06T07:08:09Z"


@pytest.fixture
def ci(scratch: Scratch, tmp_path: Path) -> Path:
    """The gates have run in the checkout of the first milestone, as in CI."""
    scratch.git("switch", "--quiet", "feat/demo-1")
    place = tmp_path / "ci"
    place.mkdir()
    with (place / "log").open("w", encoding="utf-8") as log:
        subprocess.run(
            ["bash", "scripts/ci-local.sh"],
            cwd=scratch.root,
            env=os.environ | {"KVPOOL_GATES_JSON": str(place / "gates.json")},
            stdout=log,
            check=True,
        )
    return place


def arguments(ci: Path, *more: str) -> list[str]:
    files = ["--results", str(ci / "gates.json"), "--log", str(ci / "log")]
    return ["record", *files, "--started", STARTED, "--to", str(ci / "record.json"), *more]


def test_ci_makes_a_record_signs_it_and_it_counts_elsewhere(
    scratch: Scratch, ci: Path, key: Path, tmp_path: Path
) -> None:
    scratch.git("switch", "--quiet", "--detach")  # as actions/checkout leaves it
    said = scratch.run(*arguments(ci, "--branch", "feat/demo-1", "--key", str(key)))
    assert said.exit_code == 0, said.text
    assert said.text == f"wrote {ci / 'record.json'}: demo/1, 6 gates passed, signed\n"
    record = parse((ci / "record.json").read_text(encoding="utf-8"))
    assert record.green
    assert (record.commit, record.started) == (scratch.id("feat/demo-1"), STARTED)
    assert record.gates[1].tests == {"failed": 0, "passed": 2, "deselected": 0}

    scratch.git("clone", "--quiet", str(scratch.root), str(tmp_path / "clone"))
    clone = Scratch(tmp_path / "clone")
    assert clone.run("take", str(ci / "record.json")).exit_code == 0
    public = key.with_suffix(".pub").read_text()
    clone.write({"pyproject.toml": f'[tool.milestones]\nsigners = ["{public}"]\n'})
    assert clone.status()["demo/1"]["evidence"]["text"] == "6/6 (signed)"


def test_a_commit_of_the_trunk_is_known_by_its_trailer(scratch: Scratch, ci: Path) -> None:
    scratch.squash("feat/demo-1", "demo/1")
    assert scratch.run(*arguments(ci, "--branch", "main")).exit_code == 0
    record = parse((ci / "record.json").read_text(encoding="utf-8"))
    assert (record.milestone, record.commit) == ("demo/1", scratch.id("main"))
    assert record.signature is None


def test_where_there_is_no_milestone_there_is_nothing_to_record(scratch: Scratch, ci: Path) -> None:
    scratch.git("switch", "--quiet", "--create", "feat/else")
    said = scratch.run(*arguments(ci))
    assert said.exit_code == 0
    assert said.text == "no record: feat/else is the branch of no milestone\n"
    assert not (ci / "record.json").exists()


def test_a_run_on_another_tree_is_no_proof_of_a_commit(scratch: Scratch, ci: Path) -> None:
    """As of a merge that a forge has made with a trunk that has moved."""
    said = scratch.run(*arguments(ci, "--commit", "feat/demo-2"))
    assert said.text == "the tree of feat/demo-2 is not the one that the gates ran on, of HEAD"
    scratch.write({"src/part1.sh": "answer1=01\n"})
    said = scratch.run(*arguments(ci))
    assert said.text == "files differ from what is checked out: src/part1.sh"
    assert not (ci / "record.json").exists()


def test_results_that_are_none_are_refused(scratch: Scratch, ci: Path) -> None:
    (ci / "gates.json").write_text('{"gates": 1}', encoding="utf-8")
    assert f"{ci / 'gates.json'} holds no results of gates" in scratch.run(*arguments(ci)).text


def test_a_gate_that_failed_there_has_failed(scratch: Scratch, ci: Path) -> None:
    told = json.loads((ci / "gates.json").read_text(encoding="utf-8"))
    told["gates"][2] |= {"passed": False, "reason": f"{scratch.root}/src is bad"}
    (ci / "gates.json").write_text(json.dumps(told), encoding="utf-8")
    assert scratch.run(*arguments(ci)).exit_code == 0
    assert scratch.run("take", str(ci / "record.json")).exit_code == 0
    one = scratch.status()["demo/1"]
    assert (one["state"], one["why"]) == ("draft", "did not pass: lint")
    assert one["evidence"]["record"]["gates"][2]["reason"] == "./src is bad"


@pytest.mark.parametrize(
    ("key_", "value", "reason"),
    [
        ("exit_code", 7, "changed after it was written"),
        ("commit", 5, "malformed: commit"),
    ],
)
def test_what_speaks_against_a_record_is_said_and_it_is_not_taken(
    scratch: Scratch, ci: Path, key_: str, value: object, reason: str
) -> None:
    scratch.run(*arguments(ci))
    path = ci / "record.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(document | {key_: value}), encoding="utf-8")
    assert reason in scratch.run("take", str(path)).text
    assert scratch.repository.commit(NOTES) is None


def test_a_record_of_a_commit_that_is_not_here_is_not_taken(
    scratch: Scratch, ci: Path, tmp_path: Path
) -> None:
    scratch.run(*arguments(ci))
    other = Scratch(tmp_path / "other")
    other.begin(parts=1)
    assert "is not here" in other.run("take", str(ci / "record.json")).text


def test_a_record_that_is_not_true_to_its_commit_is_not_taken(
    scratch: Scratch, ci: Path, key: Path
) -> None:
    """Each is sealed anew, so that only what it says can speak against it."""
    path = ci / "record.json"
    other = scratch.repository.tree("feat/demo-2")
    signed = signing.sign(record_of(scratch.repository, "feat/demo-2"), key).signature
    mine = record_of(scratch.repository, "feat/demo-1")
    for forged, reason in [
        (record_of(scratch.repository, "feat/demo-1", tree=other), f"names the tree {other[:12]}"),
        (record_of(scratch.repository, "feat/demo-1", locks="0" * 64), "names gates or locks"),
        (mine.model_copy(update={"signature": signed}), "its signature does not fit"),
    ]:
        path.write_text(to_page(forged), encoding="utf-8")
        said = scratch.run("take", str(path))
        assert said.exit_code == 1
        assert reason in said.text
    assert scratch.repository.commit(NOTES) is None
