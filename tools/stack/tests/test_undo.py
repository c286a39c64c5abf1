"""Every step that moves a ref can be taken back, the taking back too."""

from __future__ import annotations

from pathlib import Path

import pytest

from milestones.journal import JOURNAL, Journal

from .scratch import Make, Scratch
from .test_status import prove


@pytest.fixture
def moved(make: Make) -> tuple[Scratch, dict[str, str]]:
    """A repository after a restack, and its branches before that."""
    before = make(first_merged, name="before").heads()
    scratch = make(first_merged, restacked)
    assert scratch.heads() != before
    return scratch, before


def first_merged(scratch: Scratch) -> None:
    scratch.squash("feat/demo-1", "demo/1")


def restacked(scratch: Scratch) -> None:
    assert scratch.run("restack", "--execute").exit_code == 0


def forks(scratch: Scratch) -> dict[str, str]:
    return scratch.repository.refs("refs/stack/fork/")


def test_it_is_a_dry_run_first(moved: tuple[Scratch, dict[str, str]]) -> None:
    scratch, before = moved
    now = scratch.heads()
    said = scratch.run("undo")
    for number in (2, 3):
        name = f"refs/heads/feat/demo-{number}"
        assert f"  feat/demo-{number}  {now[name][:12]} -> {before[name][:12]}\n" in said.text
    assert said.text.endswith("nothing was changed; to do it: --execute\n")
    assert scratch.heads() == now


def test_branches_and_recorded_fork_points_come_back(
    moved: tuple[Scratch, dict[str, str]],
) -> None:
    scratch, before = moved
    assert len(forks(scratch)) == 2
    assert scratch.run("undo", "--execute").exit_code == 0
    assert scratch.heads() == before
    assert forks(scratch) == {}
    assert scratch.repository.changes() == []


def test_an_undo_can_be_undone(moved: tuple[Scratch, dict[str, str]]) -> None:
    scratch, before = moved
    after = scratch.heads()
    scratch.run("undo", "--execute")
    newest = scratch.run("undo", "--list").text.split()[0]
    assert scratch.run("undo", "--entry", newest, "--execute").exit_code == 0
    assert scratch.heads() == after
    assert scratch.run("undo", "--execute").exit_code == 0
    assert scratch.heads() == before


def test_operations_are_undone_from_the_newest_on(
    moved: tuple[Scratch, dict[str, str]],
) -> None:
    scratch, before = moved
    scratch.commit("Elsewhere", {"else.txt": ""})
    between = scratch.heads()
    assert scratch.run("restack", "--execute").exit_code == 0
    assert scratch.run("undo", "--execute").exit_code == 0
    assert scratch.heads() == between
    assert scratch.run("undo", "--execute").exit_code == 0
    assert scratch.heads() == before | {"refs/heads/main": between["refs/heads/main"]}
    said = scratch.run("undo", "--execute")
    assert said.exit_code == 1
    assert said.text.startswith("there is nothing to undo")


def test_nothing_to_undo_in_a_new_repository(scratch: Scratch) -> None:
    assert scratch.run("undo").text.startswith("there is nothing to undo")
    assert scratch.run("undo", "--list").text == "the journal is empty\n"
    assert scratch.run("undo", "--entry", "abc").text == "0 entries of the journal begin with 'abc'"


def test_what_came_after_is_not_lost_by_accident(
    moved: tuple[Scratch, dict[str, str]],
) -> None:
    scratch, before = moved
    scratch.git("switch", "--quiet", "feat/demo-3")
    later = scratch.commit("Later", {"later.txt": ""})
    now = scratch.heads()
    said = scratch.run("undo", "--execute")
    assert said.exit_code == 1
    assert said.text.startswith("moved since then: feat/demo-3; ")
    assert scratch.heads() == now
    assert "(has moved since)" in scratch.run("undo").text
    assert scratch.run("undo", "--execute", "--force").exit_code == 0
    assert scratch.heads() == before
    newest = scratch.run("undo", "--list").text.split()[0]
    assert scratch.run("undo", "--entry", newest, "--execute").exit_code == 0
    assert scratch.id("feat/demo-3") == later


def test_other_branches_are_left_alone(moved: tuple[Scratch, dict[str, str]]) -> None:
    scratch, before = moved
    scratch.git("switch", "--quiet", "--create", "other")
    other = scratch.commit("Other", {"other.txt": ""})
    assert scratch.run("undo", "--execute").exit_code == 0
    assert scratch.heads() == before | {"refs/heads/other": other}
    assert scratch.repository.head() == "refs/heads/other"


def test_the_branch_that_is_checked_out_moves_with_its_files(
    moved: tuple[Scratch, dict[str, str]],
) -> None:
    scratch, before = moved
    scratch.git("switch", "--quiet", "feat/demo-3")
    assert scratch.run("undo", "--execute").exit_code == 0
    assert scratch.id("HEAD") == before["refs/heads/feat/demo-3"]
    assert scratch.repository.head() == "refs/heads/feat/demo-3"
    assert scratch.repository.changes() == []


def test_a_dirty_tree_is_refused(moved: tuple[Scratch, dict[str, str]]) -> None:
    scratch, _ = moved
    now = scratch.heads()
    scratch.write({"README.md": "mine\n"})
    said = scratch.run("undo", "--execute")
    assert (said.exit_code, said.text) == (1, "the working tree has changes: README.md")
    assert scratch.heads() == now
    assert (scratch.root / "README.md").read_text(encoding="utf-8") == "mine\n"


def test_a_branch_in_another_worktree_is_refused(
    moved: tuple[Scratch, dict[str, str]], tmp_path: Path
) -> None:
    scratch, _ = moved
    scratch.git("worktree", "add", "--quiet", str(tmp_path / "other"), "feat/demo-2")
    now = scratch.heads()
    said = scratch.run("undo", "--execute")
    assert said.exit_code == 1
    assert "refs/heads/feat/demo-2 is checked out in another worktree" in said.text
    assert scratch.heads() == now


def test_a_rebase_of_somebody_else_is_not_given_up(
    moved: tuple[Scratch, dict[str, str]],
) -> None:
    scratch, _ = moved
    scratch.commit("Contradiction", {"README.md": "else\n"})
    scratch.repository.attempt("rebase", "main", "feat/demo-2")
    assert scratch.repository.rebase_in_progress()
    said = scratch.run("undo", "--execute")
    assert said.text == "a rebase waits here that does not belong to 'restack demo'"
    assert scratch.repository.rebase_in_progress()


def test_the_journal_keeps_what_git_would_collect(
    moved: tuple[Scratch, dict[str, str]],
) -> None:
    scratch, before = moved
    scratch.git("reflog", "expire", "--expire=now", "--all")
    scratch.git("gc", "--quiet", "--prune=now")
    assert scratch.run("undo", "--execute").exit_code == 0
    assert scratch.heads() == before


def test_the_journal_has_every_ref_before_the_first_moves(
    moved: tuple[Scratch, dict[str, str]],
) -> None:
    scratch, before = moved
    (entry,) = Journal(scratch.repository).entries()
    assert entry.operation == "restack demo"
    assert entry.head == "refs/heads/main"
    assert {k: v for k, v in entry.before.items() if k.startswith("refs/heads/")} == before
    assert entry.after is not None
    assert entry.after["refs/heads/feat/demo-2"] == scratch.id("feat/demo-2")
    assert scratch.repository.count(JOURNAL) > 2


def test_the_journal_is_kept_where_git_knows_nobody(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch.git("config", "user.useConfigOnly", "true")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    assert Journal(scratch.repository).begin("something", [])


def test_work_after_a_conflict_that_was_resolved_is_not_dropped(scratch: Scratch) -> None:
    scratch.git("switch", "--quiet", "feat/demo-1")
    scratch.write({"README.md": "# Another project\n"})
    scratch.git("commit", "--quiet", "--all", "--amend", "--no-edit")
    assert scratch.run("restack", "--execute").text.startswith("conflict at ")
    while scratch.repository.rebase_in_progress():
        scratch.write({"README.md": "# Another project\n\nMore\n"})
        scratch.git("add", "README.md")
        scratch.repository.attempt("rebase", "--continue")
    scratch.git("switch", "--quiet", "feat/demo-3")
    work = scratch.commit("A day of work", {"src/day.sh": "day=1\n"})
    refused = scratch.run("undo", "--execute")
    assert refused.text.startswith("moved since then: feat/demo-3;")
    assert scratch.run("restack", "--execute").exit_code == 0  # there is nothing left to do
    refused = scratch.run("undo", "--execute")
    assert refused.text.startswith("moved since then: feat/demo-3;")
    assert scratch.id("feat/demo-3") == work


def test_a_restack_that_was_finished_by_hand_is_closed_by_the_next(scratch: Scratch) -> None:
    scratch.git("switch", "--quiet", "feat/demo-1")
    scratch.write({"README.md": "# Another project\n"})
    scratch.git("commit", "--quiet", "--all", "--amend", "--no-edit")
    assert scratch.run("restack", "--execute").text.startswith("conflict at ")
    while scratch.repository.rebase_in_progress():
        scratch.write({"README.md": "# Another project\n\nMore\n"})
        scratch.git("add", "README.md")
        scratch.repository.attempt("rebase", "--continue")
    journal = Journal(scratch.repository)
    assert journal.entries()[0].after is None
    assert scratch.run("restack", "--execute").exit_code == 0
    assert journal.entries()[0].after is not None
    assert scratch.run("undo", "--execute").exit_code == 0


def test_what_was_checked_out_comes_back(scratch: Scratch) -> None:
    prove(scratch, 1)
    scratch.git("switch", "--quiet", "feat/demo-1")
    assert scratch.run("land", "demo/1", "--local", "--execute").exit_code == 0
    assert scratch.repository.head() == "refs/heads/main"
    assert scratch.run("undo", "--execute").exit_code == 0
    assert scratch.repository.head() == "refs/heads/feat/demo-1"
