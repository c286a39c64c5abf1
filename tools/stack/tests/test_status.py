"""States are computed: from where branches are, and from evidence for exactly that tree."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from milestones.evidence import Store
from milestones.records import GATES

from .project import manifest
from .records import record_of, result
from .scratch import Scratch


def prove(scratch: Scratch, *numbers: int) -> None:
    for number in numbers:
        commit = scratch.id(f"feat/demo-{number}")
        record = record_of(scratch.repository, commit, milestone=f"demo/{number}")
        Store(scratch.repository).add(record)


def test_without_a_branch_a_milestone_is_planned(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path / "new")
    scratch.begin(parts=2)
    status = scratch.status()
    assert {key: one["state"] for key, one in status.items()} == {
        "demo/1": "planned",
        "demo/2": "planned",
    }
    assert status["demo/1"]["todo"] == "git switch -c feat/demo-1 main"
    assert status["demo/2"]["todo"] == "begins after demo/1"


def test_in_an_empty_repository_everything_is_planned(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    scratch.git("init", "--quiet")
    scratch.write({"docs/stack/demo.toml": manifest(1)})
    assert scratch.states() == {"demo/1": "planned"}


def test_a_branch_without_evidence_is_a_draft(scratch: Scratch) -> None:
    assert set(scratch.states().values()) == {"draft"}
    assert scratch.status()["demo/2"]["todo"] == "verify demo/2"


def test_ready_needs_evidence_and_ready_parents(scratch: Scratch) -> None:
    prove(scratch, 2, 3)
    assert scratch.states() == {"demo/1": "draft", "demo/2": "blocked", "demo/3": "blocked"}
    assert scratch.status()["demo/3"]["why"] == "waits for demo/2, which is blocked"
    prove(scratch, 1)
    assert set(scratch.states().values()) == {"ready"}
    todo = {key: one["todo"] for key, one in scratch.status().items()}
    assert todo == {
        "demo/1": "land demo/1",
        "demo/2": "lands after demo/1",
        "demo/3": "lands after demo/2",
    }


@pytest.mark.parametrize(
    ("changed", "gates", "why"),
    [
        ({"exit_code": 1}, "5/6 (test)", "did not pass: test"),
        ({"scope": "quick"}, "5/6 (test, quick)", "three of six gates ran"),
    ],
)
def test_a_run_that_is_not_green_leaves_a_draft(
    scratch: Scratch, changed: dict[str, object], gates: str, why: str
) -> None:
    some = [result(gate, passed=gate != "test") for gate in GATES]
    record = record_of(scratch.repository, "feat/demo-1", gates=some, **changed)
    Store(scratch.repository).add(record)
    first = scratch.status()["demo/1"]
    assert (first["state"], first["evidence"]["text"], first["why"]) == ("draft", gates, why)


def test_evidence_of_an_earlier_tree_is_stale(scratch: Scratch) -> None:
    prove(scratch, 1, 2, 3)
    scratch.git("switch", "--quiet", "feat/demo-3")
    scratch.commit("More", {"src/part3.sh": "answer3=03\n"})
    third = scratch.status()["demo/3"]
    assert (third["state"], third["why"]) == ("stale", "its records are of another tree")
    assert third["evidence"]["text"] == "of another tree"


def test_an_amended_parent_makes_its_children_stale(scratch: Scratch) -> None:
    prove(scratch, 1, 2, 3)
    scratch.git("switch", "--quiet", "feat/demo-1")
    scratch.git("commit", "--quiet", "--amend", "--message", "Part 1, said better")
    assert scratch.states() == {"demo/1": "ready", "demo/2": "stale", "demo/3": "blocked"}
    second = scratch.status()["demo/2"]
    assert (second["why"], second["todo"]) == ("demo/1 has moved from under it", "restack demo")


def test_a_squash_is_found_by_its_trailer_and_has_the_evidence_of_its_tree(
    scratch: Scratch,
) -> None:
    prove(scratch, 1, 2, 3)
    squash = scratch.squash("feat/demo-1", "demo/1")
    first = scratch.status()["demo/1"]
    assert first["state"] == "merged"
    assert first["fact"]["commit"] == squash
    assert first["evidence"]["verdict"] == "green"
    assert scratch.states()["demo/2"] == "stale"


def test_a_trailer_on_a_branch_does_not_make_it_merged(scratch: Scratch) -> None:
    scratch.git("switch", "--quiet", "feat/demo-1")
    scratch.commit("The last\n\nMilestone: demo/1")
    assert scratch.states()["demo/1"] == "draft"
    scratch.commit("A note\n\nnot at the end: Milestone: demo/1\n\nas here")
    scratch.git("branch", "--force", "main", "HEAD~2")
    assert scratch.states()["demo/1"] == "draft"
    scratch.git("branch", "--force", "main", "HEAD")
    assert scratch.status()["demo/1"]["fact"]["commit"] == scratch.id("HEAD~1")


def test_the_newest_commit_with_a_trailer_is_the_milestone(scratch: Scratch) -> None:
    scratch.commit("First\n\nMilestone: demo/1")
    again = scratch.commit("Again\n\nMilestone: demo/1\nMilestone: demo/2")
    scratch.commit("After that")
    status = scratch.status()
    assert [status[key]["fact"]["commit"] for key in ("demo/1", "demo/2")] == [again, again]


def test_a_merged_milestone_that_fails_alone_is_shown_as_such(scratch: Scratch) -> None:
    squash = scratch.squash("feat/demo-1", "demo/1")
    first = scratch.status()["demo/1"]
    assert (first["state"], first["why"], first["todo"]) == (
        "merged",
        "not proved",
        "verify demo/1",
    )
    some = [result(gate, passed=gate != "docs") for gate in GATES]
    Store(scratch.repository).add(record_of(scratch.repository, squash, gates=some, exit_code=1))
    first = scratch.status()["demo/1"]
    assert (first["state"], first["why"]) == ("merged", "fails alone: docs")


def test_a_paused_milestone_is_blocked_and_says_why(scratch: Scratch) -> None:
    prove(scratch, 1, 2, 3)
    scratch.change_manifest("id = 2", 'id = 2\npaused = "waits for an answer"')
    assert scratch.states() == {"demo/1": "ready", "demo/2": "blocked", "demo/3": "blocked"}
    assert scratch.status()["demo/2"]["why"] == "paused: waits for an answer"


def test_an_exclusion_that_has_expired_blocks(scratch: Scratch) -> None:
    prove(scratch, 1)
    exclusion = '\n[[milestone.exclusion]]\ntest = "t.py::t"\nreason = "r"\nexpires = {}\n'
    end = 'next = "The part 2."\n'
    scratch.change_manifest(end, end + exclusion.format("2999-01-01"))
    assert scratch.states()["demo/1"] == "ready"
    scratch.change_manifest("2999-01-01", "2020-01-01")
    first = scratch.status()["demo/1"]
    assert first["state"] == "blocked"
    assert first["why"] == "the exclusion of t.py::t expired on 2020-01-01"


def test_a_milestone_waits_for_those_of_other_stacks(scratch: Scratch) -> None:
    text = manifest(1, "other").replace("id = 1", 'id = 1\ndepends = ["demo/1"]')
    scratch.write({"docs/stack/other.toml": text})
    assert scratch.status()["other/1"]["state"] == "planned"
    scratch.grow(1, stack="other", files={"src/part1.sh": "answer1=1\n", "tests/x.sh": "true\n"})
    commit = scratch.id("feat/other-1")
    Store(scratch.repository).add(record_of(scratch.repository, commit, milestone="other/1"))
    assert scratch.states()["other/1"] == "blocked"
    prove(scratch, 1)
    assert scratch.states()["other/1"] == "ready"
    assert scratch.status()["other/1"]["todo"] == "lands after demo/1"


def test_a_branch_behind_the_trunk_is_restacked_before_it_lands(scratch: Scratch) -> None:
    prove(scratch, 1)
    scratch.commit("Elsewhere", {"else.txt": ""})
    first = scratch.status()["demo/1"]
    assert (first["state"], first["todo"]) == ("ready", "restack demo: main is 1 ahead")


def test_a_clone_sees_the_branches_of_its_remote(scratch: Scratch, tmp_path: Path) -> None:
    prove(scratch, 1)
    scratch.git("clone", "--quiet", str(scratch.root), str(tmp_path / "clone"))
    clone = Scratch(tmp_path / "clone")
    assert set(clone.states().values()) == {"draft"}
    assert clone.status()["demo/1"]["fact"]["ref"] == "origin/feat/demo-1"
    clone.git("fetch", "--quiet", "origin", "refs/notes/gates:refs/notes/gates")
    assert clone.states()["demo/1"] == "ready"


def test_what_was_fetched_of_the_trunk_counts_unless_the_two_have_parted(
    scratch: Scratch, tmp_path: Path
) -> None:
    scratch.git("clone", "--quiet", str(scratch.root), str(tmp_path / "clone"))
    clone = Scratch(tmp_path / "clone")
    scratch.squash("feat/demo-1", "demo/1")
    clone.git("fetch", "--quiet", "origin")
    assert clone.states()["demo/1"] == "merged"
    clone.commit("By accident")
    said = clone.run("status")
    assert said.exit_code == 1
    assert said.text.startswith("main and origin/main have parted: ")
    assert said.hint[-1] == "  git log --oneline --left-right main...origin/main"


def test_the_table_fits_into_eighty_columns(scratch: Scratch) -> None:
    prove(scratch, 1, 3)
    said = scratch.run("status")
    lines = said.text.splitlines()
    assert lines[0] == "demo  The demo, 0 of 3 merged"
    assert max(map(len, lines)) <= 80
    assert [line.split()[0:4] for line in lines[2:5]] == [
        ["1/3", "Part", "1", "ready"],
        ["2/3", "Part", "2", "draft"],
        ["3/3", "Part", "3", "blocked"],
    ]
    assert "waits for demo/2, which is draft" in lines[4]


def test_what_does_not_count_is_shown(scratch: Scratch) -> None:
    prove(scratch, 1)
    tip = scratch.id("feat/demo-1")
    note = scratch.git("notes", "--ref", "gates", "show", tip)
    edited = note.replace('"seconds":60.5', '"seconds":6.5')
    scratch.git("notes", "--ref", "gates", "add", "--force", "--message", edited, tip)
    said = scratch.run("status")
    assert "demo/1: does not count: the note of" in said.text
    assert scratch.status()["demo/1"]["state"] == "draft"


def test_stacks_are_chosen_by_name(scratch: Scratch) -> None:
    scratch.write({"docs/stack/other.toml": manifest(1, "other")})
    said = scratch.run("status", "other", "--json")
    assert [one["stack"] for one in json.loads(said.text)["stacks"]] == ["other"]
    said = scratch.run("status", "nothing")
    assert (said.exit_code, said.text) == (1, "there is no stack 'nothing'; there are demo, other")


def test_a_squash_without_the_trailer_is_known_by_its_tree(scratch: Scratch) -> None:
    """As the button of a forge makes it; with the branch there, and with its record alone."""
    prove(scratch, 1)
    scratch.git("merge", "--quiet", "--squash", "feat/demo-1")
    scratch.git("commit", "--quiet", "--message", "Part 1 (#51)")
    assert scratch.states()["demo/1"] == "merged"
    scratch.git("branch", "--quiet", "-D", "feat/demo-1")
    assert scratch.states() == {"demo/1": "merged", "demo/2": "stale", "demo/3": "draft"}
    assert scratch.run("restack", "--execute").exit_code == 0
    assert scratch.states()["demo/2"] == "draft"


def test_a_branch_that_was_only_begun_is_not_merged(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path / "new")
    scratch.begin(parts=1)
    scratch.git("branch", "feat/demo-1")
    assert scratch.states() == {"demo/1": "draft"}
    scratch.commit("Elsewhere")  # its tree is that of the commit before
    assert scratch.states() == {"demo/1": "draft"}


def test_a_revert_takes_a_merge_back(scratch: Scratch) -> None:
    landed = scratch.squash("feat/demo-1", "demo/1")
    assert scratch.states()["demo/1"] == "merged"
    scratch.git("revert", "--no-edit", landed)
    assert scratch.states()["demo/1"] == "planned"
    scratch.git("revert", "--no-edit", "HEAD")
    assert scratch.states()["demo/1"] == "merged"


def test_a_child_that_carries_what_its_parent_dropped_is_stale(scratch: Scratch) -> None:
    scratch.git("switch", "--quiet", "feat/demo-3")
    secret = scratch.commit("A secret", {"src/secret.sh": "password=1\n"})
    text = scratch.root / "docs/stack/demo.toml"
    four = manifest(4)
    scratch.git("switch", "--quiet", "--create", "feat/demo-4")
    scratch.commit("Part 4", {"src/part4.sh": "answer4=4\n"})
    scratch.git("branch", "--quiet", "--force", "feat/demo-3", f"{secret}~1")
    text.write_text(four, encoding="utf-8")
    scratch.commit("Part 4 is planned")
    assert scratch.states()["demo/4"] == "stale"
    said = scratch.run("restack", "--execute")
    assert "left behind, as feat/demo-3 has dropped it" in said.text
    files = scratch.git("ls-tree", "-r", "--name-only", "feat/demo-4").splitlines()
    assert "src/part4.sh" in files
    assert "src/secret.sh" not in files


def test_a_commit_that_was_moved_to_a_new_branch_stays(scratch: Scratch) -> None:
    """Committed on the wrong branch: a branch is made there, and the wrong one goes back."""
    scratch.git("branch", "--quiet", "-D", "feat/demo-3")
    scratch.git("switch", "--quiet", "feat/demo-2")
    scratch.commit("Part 3", {"src/part3.sh": "answer3=3\n"})
    scratch.git("switch", "--quiet", "--create", "feat/demo-3")
    scratch.git("branch", "--quiet", "--force", "feat/demo-2", "HEAD~1")
    assert scratch.states()["demo/3"] == "draft"


def test_a_record_without_content_is_not_green(scratch: Scratch) -> None:
    commit = scratch.id("feat/demo-1")
    no_log = hashlib.sha256(b"").hexdigest()
    cases: tuple[dict[str, Any], ...] = (
        {"started": ""},
        {"tools": {}},
        {"log": no_log},
        {"seconds": 0.0},
    )
    for lacking in cases:
        record = record_of(scratch.repository, commit, milestone="demo/1", **lacking)
        assert record.lacks
        assert not record.green
