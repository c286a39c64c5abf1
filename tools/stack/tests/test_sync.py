"""A stack follows what happened on its remote."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from .fake_gh import FakeGh, add_remote
from .scratch import Scratch
from .test_restack import check_row, rescue


@pytest.fixture
def origin(scratch: Scratch, tmp_path: Path) -> Scratch:
    """A bare remote with the whole stack."""
    add_remote(scratch, tmp_path / "origin")
    branches = [f"feat/demo-{number}" for number in (1, 2, 3)]
    scratch.git("push", "--quiet", "--set-upstream", "origin", *branches)
    return Scratch(tmp_path / "origin")


@pytest.fixture
def other(origin: Scratch, tmp_path: Path) -> Scratch:
    """Another clone, with every branch."""
    origin.git("clone", "--quiet", str(origin.root), str(tmp_path / "other"))
    clone = Scratch(tmp_path / "other")
    for number in (1, 2, 3):
        clone.git("branch", "--quiet", f"feat/demo-{number}", f"origin/feat/demo-{number}")
    return clone


def merge_first(other: Scratch) -> str:
    """Merge the first milestone as a forge does, with its branch deleted there."""
    commit = other.squash("feat/demo-1", "demo/1")
    other.git("push", "--quiet", "origin", "main", ":feat/demo-1")
    return commit


def test_what_landed_is_noticed_and_the_rest_follows(
    scratch: Scratch, origin: Scratch, other: Scratch
) -> None:
    before, there = scratch.heads(), origin.heads()
    landed = merge_first(other)
    said = scratch.run("sync")
    assert said.exit_code == 0, said.text
    assert f"demo/1 has landed as {landed[:12]}\n" in said.text
    assert f"main follows its remote to {landed[:12]}\n" in said.text
    assert "demo/2  feat/demo-2 moves onto origin/main\n" in said.text
    assert said.text.endswith("no branch was changed; to do it: --execute\n")
    assert scratch.heads() == before

    scratch.git("switch", "--quiet", "feat/demo-3")
    said = scratch.run("sync", "--execute")
    assert said.exit_code == 0, said.text
    assert scratch.repository.head() == "refs/heads/feat/demo-3"
    assert scratch.repository.changes() == []
    assert scratch.id("main") == landed
    check_row(scratch, 2)
    for number in (2, 3):
        ref = f"refs/heads/feat/demo-{number}"
        lease = f"--force-with-lease={ref}:{there[ref]}"
        assert f"$ git push {lease} origin feat/demo-{number}\n" in said.text
        assert origin.heads()[ref] == scratch.heads()[ref]
    assert "feat/demo-1 is merged, and not needed any more: git branch -D feat/demo-1" in said.text
    rescue(scratch, before)
    assert scratch.repository.head() == "refs/heads/feat/demo-3"


def test_a_stack_goes_from_its_requests_to_the_trunk(
    scratch: Scratch,
    origin: Scratch,
    other: Scratch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Submit, a merge on the forge, sync, and submit again."""
    gh = FakeGh.install(tmp_path / "gh", monkeypatch)
    assert scratch.run("submit", "demo", "--execute").exit_code == 0
    merge_first(other)
    gh.change(51, state="MERGED")
    refused = scratch.run("submit", "demo", "--execute")
    assert refused.text == (
        "feat/demo-2 does not sit on what main is now, and nothing was submitted"
    )
    assert scratch.run("sync", "--execute").exit_code == 0
    gh.forget()
    said = scratch.run("submit", "demo", "--execute")
    assert said.exit_code == 0, said.text
    assert gh.changes()[0] == ["pr", "edit", "52", "--base", "main"]
    assert [one["baseRefName"] for one in gh.requests()] == ["main", "main", "feat/demo-2"]
    assert "1. Part 1 (merged)\n2. **#52 Part 2** (this one)\n" in gh.requests()[1]["body"]
    assert origin.id("feat/demo-3") == scratch.id("feat/demo-3")


@pytest.mark.usefixtures("origin")
def test_nothing_new_changes_nothing(scratch: Scratch) -> None:
    before = scratch.heads()
    said = scratch.run("sync", "--execute")
    assert (said.exit_code, said.text) == (0, "demo: every branch sits on what its parent is now\n")
    assert scratch.heads() == before
    assert scratch.run("undo", "--list").text == "the journal is empty\n"


@pytest.mark.usefixtures("origin")
def test_a_trunk_that_is_checked_out_follows_with_its_files(
    scratch: Scratch, other: Scratch
) -> None:
    merge_first(other)
    assert scratch.run("sync", "--execute").exit_code == 0
    assert scratch.repository.head() == "refs/heads/main"
    assert scratch.repository.changes() == []
    assert (scratch.root / "src/part1.sh").exists()


def test_a_squash_with_another_tree_is_followed_from_the_branch_here(
    scratch: Scratch, origin: Scratch, other: Scratch
) -> None:
    """The trunk went on before the merge, so the tree of the squash is not that of the branch."""
    other.git("switch", "--quiet", "main")
    other.commit("Elsewhere", {"else.txt": ""})
    merge_first(other)
    scratch.git("reflog", "expire", "--expire=now", "--all")
    said = scratch.run("sync", "--execute")
    assert said.exit_code == 0, said.text
    assert "(the tip of feat/demo-1)" in said.text
    check_row(scratch, 2)
    assert origin.id("feat/demo-3") == scratch.id("feat/demo-3")


def test_a_branch_that_was_never_pushed_stays_here(scratch: Scratch, origin: Scratch) -> None:
    origin.git("branch", "--quiet", "-D", "feat/demo-3")
    scratch.git("switch", "--quiet", "feat/demo-1")
    scratch.commit("More", {"more.txt": ""})
    assert scratch.run("sync", "demo", "--execute").exit_code == 0
    assert origin.id("feat/demo-2") == scratch.id("feat/demo-2")
    assert "refs/heads/feat/demo-3" not in origin.heads()


@pytest.mark.parametrize("number", [1, 3])
def test_a_push_of_somebody_else_is_not_overwritten(
    scratch: Scratch, origin: Scratch, other: Scratch, number: int
) -> None:
    branch = f"feat/demo-{number}"
    other.git("switch", "--quiet", branch)
    theirs = other.commit("Another person", {"theirs.txt": ""})
    other.git("push", "--quiet", "origin", branch)
    before = scratch.heads()
    for arguments in (("sync",), ("sync", "--execute")):
        said = scratch.run(*arguments)
        assert f"origin/{branch} is at {theirs[:12]}, which was never on {branch}" in said.text
    assert scratch.heads() == before
    assert origin.id(branch) == theirs


def test_a_push_between_the_fetch_and_ours_is_not_overwritten(
    scratch: Scratch, origin: Scratch, other: Scratch
) -> None:
    other.git("switch", "--quiet", "feat/demo-3")
    theirs = other.commit("Another person", {"theirs.txt": ""})
    scratch.git("switch", "--quiet", "feat/demo-2")
    scratch.commit("More", {"more.txt": ""})
    hook = scratch.root / ".git/hooks/pre-push"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\nunset GIT_DIR\ngit -C {other.root} push -q origin feat/demo-3\n")
    hook.chmod(0o755)
    said = scratch.run("sync", "--execute")
    assert said.exit_code == 1
    assert said.text.startswith("origin has not taken feat/demo-3: ")
    assert "stale info" in said.text
    assert origin.id("feat/demo-3") == theirs
    assert origin.id("feat/demo-2") == scratch.id("feat/demo-2")


@pytest.mark.usefixtures("origin")
@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"README.md": "mine\n"}, "the working tree has changes: README.md"),
        ({"src/part1.sh": "mine\n"}, "files that git does not have are in the way"),
    ],
)
def test_what_is_in_the_way_is_told_before_anything_moves(
    scratch: Scratch, other: Scratch, files: dict[str, str], why: str
) -> None:
    merge_first(other)
    scratch.write(files)
    before = scratch.heads()
    said = scratch.run("sync", "--execute")
    assert said.exit_code == 1
    assert why in said.text
    assert scratch.heads() == before
    ((name, text),) = files.items()
    assert (scratch.root / name).read_text(encoding="utf-8") == text


@pytest.mark.usefixtures("origin")
def test_a_trunk_in_another_worktree_is_named(
    scratch: Scratch, other: Scratch, tmp_path: Path
) -> None:
    merge_first(other)
    scratch.git("switch", "--quiet", "feat/demo-3")
    scratch.git("worktree", "add", "--quiet", str(tmp_path / "tree"), "main")
    before = scratch.heads()
    said = scratch.run("sync", "--execute")
    assert said.text == f"main is checked out in another worktree, {tmp_path / 'tree'}"
    assert scratch.heads() == before


@pytest.mark.usefixtures("origin")
def test_a_conflict_waits_and_can_be_given_up_or_finished(scratch: Scratch, other: Scratch) -> None:
    other.git("switch", "--quiet", "main")
    other.commit("Contradiction", {"README.md": "# Another project\n"})
    other.git("push", "--quiet", "origin", "main")
    before = scratch.heads()
    said = scratch.run("sync", "--execute")
    assert said.text.startswith("conflict at ")
    rescue(scratch, before)
    assert scratch.repository.head() == "refs/heads/main"
    assert scratch.run("sync", "--execute").text.startswith("conflict at ")
    while scratch.repository.rebase_in_progress():
        scratch.write({"README.md": "# Another project\n\nMore\n"})
        scratch.git("add", "README.md")
        scratch.repository.attempt("rebase", "--continue")
    said = scratch.run("restack", "demo", "--execute")
    assert said.text.startswith("demo: every branch sits on what its parent is now")
    rescue(scratch, before)


def test_no_remote_and_one_that_is_gone(scratch: Scratch, tmp_path: Path) -> None:
    assert scratch.run("sync").text == "there is no remote"
    add_remote(scratch, tmp_path / "origin")
    shutil.rmtree(tmp_path / "origin")
    assert scratch.run("sync").text.startswith(f"the remote origin ({tmp_path / 'origin'}) does")
