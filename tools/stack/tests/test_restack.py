"""Branches follow a parent that moved, and nothing is ever lost."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from .project import part
from .scratch import Said, Scratch


def own_subjects(scratch: Scratch, below: str, branch: str) -> list[str]:
    return scratch.repository.lines("log", "--reverse", "--format=%s", f"{below}..{branch}")


def check_row(scratch: Scratch, first: int, below: str = "main") -> None:
    """Check that milestones from a number on sit on each other, each with its own commits."""
    for number in range(first, 4):
        branch = f"feat/demo-{number}"
        assert own_subjects(scratch, below, branch) == [f"Name part {number}", f"Part {number}"]
        below = branch


def rescue(scratch: Scratch, before: dict[str, str]) -> None:
    """Undo the last operation, and check that every branch is back."""
    said = scratch.run("undo", "--execute")
    assert said.exit_code == 0, said.text
    assert scratch.heads() == before


@pytest.fixture
def merged(scratch: Scratch) -> Scratch:
    """The first milestone is on main as a squash, and its branch is gone."""
    scratch.squash("feat/demo-1", "demo/1")
    return scratch


def test_children_follow_a_squash_and_come_back(merged: Scratch) -> None:
    before, tree = merged.heads(), merged.repository.tree("feat/demo-3")
    said = merged.run("restack")
    assert "nothing was changed" in said.text
    assert merged.heads() == before
    assert "(its tree is that of demo/1 on main)" in said.text

    said = merged.run("restack", "--execute")
    assert said.exit_code == 0, said.text
    check_row(merged, 2)
    assert merged.repository.tree("feat/demo-3") == tree
    assert merged.repository.head() == "refs/heads/main"
    assert "1:  " in said.text  # the range-diff
    assert said.text.count(", before and after:") == 2
    assert merged.run("restack").text.startswith("demo: every branch sits on what its parent is")
    rescue(merged, before)


def test_three_children_of_one_parent_follow_its_squash(scratch: Scratch) -> None:
    """Not a row but a fork: each of three is based on the first."""
    for number in (2, 3):
        scratch.git("branch", "--quiet", "-D", f"feat/demo-{number}")
    for number in (2, 3, 4):
        scratch.git("switch", "--quiet", "feat/demo-1")
        scratch.git("switch", "--quiet", "--create", f"feat/demo-{number}")
        scratch.commit(f"Name part {number}", {f"docs/{number}.txt": ""})
        scratch.commit(f"Part {number}", part(number))
    scratch.git("switch", "--quiet", "main")
    scratch.change_manifest('parent = "demo/2"', 'parent = "demo/1"')
    path = scratch.root / "docs/stack/demo.toml"
    text = path.read_text(encoding="utf-8")
    third = text.rpartition("[[milestone]]")[2]
    fourth = third.replace("id = 3", "id = 4").replace("demo-3", "demo-4")
    scratch.commit("A fourth", {"docs/stack/demo.toml": f"{text}\n[[milestone]]{fourth}"})
    for number in (1, 2, 3, 4):
        scratch.git("rebase", "--quiet", "main", f"feat/demo-{number}")
    scratch.squash("feat/demo-1", "demo/1")
    before = scratch.heads()
    trees = {number: scratch.repository.tree(f"feat/demo-{number}") for number in (2, 3, 4)}

    said = scratch.run("restack", "--execute")
    assert said.exit_code == 0, said.text
    for number, tree in trees.items():
        branch = f"feat/demo-{number}"
        assert own_subjects(scratch, "main", branch) == [f"Name part {number}", f"Part {number}"]
        assert scratch.repository.tree(branch) == tree
    rescue(scratch, before)


def test_children_follow_an_amended_parent_and_come_back(scratch: Scratch) -> None:
    scratch.git("switch", "--quiet", "feat/demo-1")
    scratch.write({"src/part1.sh": "answer1=$((1))\n"})
    scratch.git("commit", "--quiet", "--all", "--amend", "--no-edit")
    before = scratch.heads()
    said = scratch.run("restack", "--execute")
    assert said.exit_code == 0, said.text
    assert "(from the reflog of feat/demo-1)" in said.text
    check_row(scratch, 1)
    assert scratch.repository.head() == "refs/heads/feat/demo-1"
    assert scratch.git("show", "feat/demo-3:src/part1.sh") == "answer1=$((1))"
    rescue(scratch, before)


def test_an_amended_child_in_the_middle_moves_only_what_is_above(scratch: Scratch) -> None:
    scratch.git("switch", "--quiet", "feat/demo-2")
    scratch.git("commit", "--quiet", "--amend", "--message", "Part 2")
    first, second = scratch.id("feat/demo-1"), scratch.id("feat/demo-2")
    assert scratch.run("restack", "--execute").exit_code == 0
    assert (scratch.id("feat/demo-1"), scratch.id("feat/demo-2")) == (first, second)
    check_row(scratch, 1)


def test_a_branch_whose_commits_are_all_on_its_parent_by_now_is_left_empty(
    scratch: Scratch,
) -> None:
    scratch.git("switch", "--quiet", "feat/demo-1")
    for commit in ("feat/demo-2^", "feat/demo-2"):
        scratch.git("cherry-pick", commit)
    scratch.git("commit", "--quiet", "--amend", "--message", "Part 2, taken over")
    said = scratch.run("restack", "--execute")
    assert said.exit_code == 0, said.text
    assert "2 commits of its own before, 0 now\n" in said.text
    assert scratch.id("feat/demo-2") == scratch.id("feat/demo-1")


def test_two_breaks_in_a_row_are_two_rebases(scratch: Scratch) -> None:
    for number in (1, 2):
        scratch.git("switch", "--quiet", f"feat/demo-{number}")
        scratch.git("commit", "--quiet", "--amend", "--message", f"Part {number}")
    before = scratch.heads()
    said = scratch.run("restack", "--execute")
    assert said.exit_code == 0, said.text
    assert said.text.count("\n$ git rebase") == 2
    check_row(scratch, 1)
    rescue(scratch, before)


def test_a_trunk_that_went_on_takes_the_whole_row_along(scratch: Scratch) -> None:
    scratch.commit("Elsewhere", {"else.txt": ""})
    before = scratch.heads()
    assert scratch.run("restack", "--execute").exit_code == 0
    check_row(scratch, 1)
    rescue(scratch, before)


def test_a_merge_on_the_forge_that_was_fetched_counts(scratch: Scratch, tmp_path: Path) -> None:
    scratch.git("clone", "--quiet", str(scratch.root), str(tmp_path / "clone"))
    clone = Scratch(tmp_path / "clone")
    for number in (1, 2, 3):
        clone.git("branch", "--quiet", f"feat/demo-{number}", f"origin/feat/demo-{number}")
    scratch.squash("feat/demo-1", "demo/1")
    clone.git("fetch", "--quiet", "--prune", "origin")
    said = clone.run("restack", "--execute")
    assert said.exit_code == 0, said.text
    check_row(clone, 2, below="origin/main")


def test_a_recorded_fork_point_serves_where_nothing_else_is_known(
    scratch: Scratch, tmp_path: Path
) -> None:
    """Another clone: no reflog, and a squash with a change of its own, so no equal tree."""
    said = scratch.run("fork-points", "--write")
    assert said.exit_code == 0, said.text
    points = [scratch.id("main"), scratch.id("feat/demo-1"), scratch.id("feat/demo-2")]
    text = (scratch.root / "docs/stack/demo.toml").read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith("fork_point")] == [
        f'fork_point = "{point}"' for point in points
    ]
    scratch.git("clone", "--quiet", str(scratch.root), str(tmp_path / "clone"))
    clone = Scratch(tmp_path / "clone")
    for number in (1, 2, 3):
        clone.git("branch", "--quiet", f"feat/demo-{number}", f"origin/feat/demo-{number}")
    clone.git("merge", "--quiet", "--squash", "feat/demo-1")
    clone.commit("Squash\n\nMilestone: demo/1", {"else.txt": ""})
    clone.git("branch", "--quiet", "-D", "feat/demo-1")
    said = clone.run("restack")
    assert said.exit_code == 1
    assert said.text == "demo/2: where feat/demo-2 left demo/1 is not known"
    assert said.hint[-1] == '  fork_point = "…"'
    clone.commit("Fork points", {"docs/stack/demo.toml": text})
    said = clone.run("restack", "--execute")
    assert said.exit_code == 0, said.text
    assert "(recorded in the manifest)" in said.text
    check_row(clone, 2)


def test_fork_points_that_are_there_are_replaced_and_nothing_else(scratch: Scratch) -> None:
    scratch.change_manifest("id = 2", f'# why\nid = 2\nfork_point = "{"0" * 40}"')
    before = (scratch.root / "docs/stack/demo.toml").read_text(encoding="utf-8")
    said = scratch.run("fork-points")
    assert f"demo/2  {scratch.id('feat/demo-1')}  (the tip of feat/demo-1)" in said.text
    assert (scratch.root / "docs/stack/demo.toml").read_text(encoding="utf-8") == before
    scratch.run("fork-points", "--write")
    after = (scratch.root / "docs/stack/demo.toml").read_text(encoding="utf-8")
    kept = [line for line in after.splitlines() if not line.startswith("fork_point")]
    assert kept == [line for line in before.splitlines() if not line.startswith("fork_point")]
    assert f'# why\nid = 2\nfork_point = "{scratch.id("feat/demo-1")}"\n' in after


def conflicting(scratch: Scratch) -> dict[str, str]:
    """Amend the first milestone so that the second contradicts it; return all branches."""
    scratch.git("switch", "--quiet", "feat/demo-1")
    scratch.write({"README.md": "# A project\n\n`src/part0.sh`, `src/part1.sh`\n"})
    scratch.git("commit", "--quiet", "--all", "--amend", "--no-edit")
    return scratch.heads()


def follow(scratch: Scratch, said: Said, heading: str) -> None:
    """Run the commands that the hints have under a heading, but for those of the tool."""
    start = next(i for i, line in enumerate(said.hint) if heading in line)
    for line in said.hint[start + 1 :]:
        if not line.startswith("  "):
            break
        words = shlex.split(line)
        if words[0] == "nox":
            assert scratch.run(*words[words.index("--") + 1 :]).exit_code == 0
        else:
            env = {"GIT_EDITOR": "true"}
            scratch.repository.run(*words[1:], env=env)


def test_a_conflict_stops_and_tells_how_to_go_on(scratch: Scratch) -> None:
    before = conflicting(scratch)
    said = scratch.run("restack", "--execute")
    assert said.exit_code == 1
    assert said.text.startswith("conflict at ")
    assert said.text.endswith("Name part 2, in README.md")
    assert scratch.heads() == before
    assert scratch.repository.rebase_in_progress()
    assert "<<<<<<<" in (scratch.root / "README.md").read_text(encoding="utf-8")

    scratch.write({"README.md": "# A project\n\n`src/part0.sh` `src/part1.sh`\n`src/part2.sh`\n"})
    follow(scratch, said, "Nothing resolves itself")
    check_row(scratch, 1)
    assert scratch.repository.head() == "refs/heads/feat/demo-1"


def test_a_conflict_can_be_given_up(scratch: Scratch) -> None:
    before = conflicting(scratch)
    said = scratch.run("restack", "--execute")
    follow(scratch, said, "To give up")
    assert scratch.heads() == before
    assert scratch.repository.head() == "refs/heads/feat/demo-1"
    assert not scratch.repository.rebase_in_progress()
    assert scratch.repository.changes() == []


def test_a_conflict_in_the_second_of_two_rebases_gives_the_first_back_too(
    scratch: Scratch,
) -> None:
    scratch.git("switch", "--quiet", "feat/demo-1")
    scratch.git("commit", "--quiet", "--amend", "--message", "Part 1")
    scratch.git("switch", "--quiet", "feat/demo-2")
    scratch.write({"README.md": "# Another project\n"})
    scratch.git("commit", "--quiet", "--all", "--amend", "--no-edit")
    before = scratch.heads()
    said = scratch.run("restack", "--execute")
    assert said.text.startswith("conflict at ")
    assert scratch.heads() != before
    rescue(scratch, before)


def test_a_resolved_conflict_can_still_be_undone(scratch: Scratch) -> None:
    before = conflicting(scratch)
    scratch.run("restack", "--execute")
    while scratch.repository.rebase_in_progress():
        scratch.git("checkout", "--theirs", "README.md")
        scratch.git("add", "README.md")
        scratch.repository.attempt("rebase", "--continue")
    assert scratch.heads() != before
    rescue(scratch, before)


def test_a_branch_in_another_worktree_is_detected(scratch: Scratch, tmp_path: Path) -> None:
    """`--update-refs` would leave it behind and say nothing."""
    other = tmp_path / "an other"
    scratch.git("worktree", "add", "--quiet", str(other), "feat/demo-2")
    scratch.git("switch", "--quiet", "feat/demo-1")
    scratch.git("commit", "--quiet", "--amend", "--message", "Part 1")
    before = scratch.heads()
    assert "in the way: feat/demo-2 is checked out in another" in scratch.run("restack").text
    said = scratch.run("restack", "--execute")
    assert said.exit_code == 1
    assert said.text.startswith(f"feat/demo-2 is checked out in another worktree, {other}")
    assert scratch.heads() == before
    scratch.git(*shlex.split(said.hint[0])[1:])
    assert scratch.run("restack", "--execute").exit_code == 0
    check_row(scratch, 1)


def test_git_does_leave_such_a_branch_behind(scratch: Scratch, tmp_path: Path) -> None:
    """Why the test above is there: what git itself does."""
    scratch.git("worktree", "add", "--quiet", str(tmp_path / "other"), "feat/demo-2")
    scratch.commit("Elsewhere", {"else.txt": ""})
    second = scratch.id("feat/demo-2")
    scratch.git("rebase", "--quiet", "--update-refs", "main", "feat/demo-3")
    assert scratch.id("feat/demo-2") == second
    assert not scratch.repository.is_ancestor("feat/demo-2", "feat/demo-3")


def test_other_branches_on_the_same_commits_stay(scratch: Scratch) -> None:
    scratch.git("branch", "backup", "feat/demo-2")
    scratch.git("branch", "backup.2", "feat/demo-2~1")
    scratch.git("switch", "--quiet", "feat/demo-1")
    scratch.git("commit", "--quiet", "--amend", "--message", "Part 1")
    before = scratch.heads()
    said = scratch.run("restack", "--execute")
    assert said.exit_code == 0, said.text
    assert "left where they are: backup, backup.2" in said.text
    after = scratch.heads()
    for name in ("refs/heads/backup", "refs/heads/backup.2"):
        assert after[name] == before[name]
    check_row(scratch, 1)
    rescue(scratch, before)


def test_a_dirty_tree_is_refused(merged: Scratch) -> None:
    merged.write({"README.md": "mine\n", "untracked.txt": "mine, too\n"})
    before = merged.heads()
    said = merged.run("restack", "--execute")
    assert (said.exit_code, said.text) == (1, "the working tree has changes: README.md")
    assert merged.heads() == before
    assert (merged.root / "README.md").read_text(encoding="utf-8") == "mine\n"
    merged.git("checkout", "--quiet", "README.md")
    assert merged.run("restack", "--execute").exit_code == 0
    assert (merged.root / "untracked.txt").exists()


def test_an_untracked_file_in_the_way_is_not_overwritten(merged: Scratch) -> None:
    merged.write({"src/part3.sh": "mine\n"})
    before = merged.heads()
    said = merged.run("restack", "--execute")
    assert said.exit_code == 1
    assert said.text == "files that git does not have are in the way: src/part3.sh"
    assert merged.heads() == before
    assert (merged.root / "src/part3.sh").read_text(encoding="utf-8") == "mine\n"
    (merged.root / "src/part3.sh").unlink()
    assert merged.run("restack", "--execute").exit_code == 0
    check_row(merged, 2)
    assert merged.repository.head() == "refs/heads/main"


def test_a_detached_head_is_left_where_it_was(merged: Scratch) -> None:
    merged.git("switch", "--quiet", "--detach", "feat/demo-2~1")
    here = merged.id("HEAD")
    before = merged.heads()
    assert merged.run("restack", "--execute").exit_code == 0
    assert merged.repository.head() == here
    check_row(merged, 2)
    rescue(merged, before)
    assert merged.repository.head() == here


def test_a_rebase_under_way_is_refused(scratch: Scratch) -> None:
    before = conflicting(scratch)
    scratch.repository.attempt("rebase", "feat/demo-1", "feat/demo-2")
    said = scratch.run("restack", "--execute")
    assert (said.exit_code, said.text) == (1, "a rebase waits here")
    assert scratch.heads() == before


def test_a_merge_commit_is_refused(scratch: Scratch) -> None:
    scratch.git("switch", "--quiet", "--create", "aside", "feat/demo-2~1")
    scratch.commit("Aside", {"aside.txt": ""})
    scratch.git("switch", "--quiet", "feat/demo-2")
    scratch.git("merge", "--quiet", "--no-edit", "aside")
    scratch.git("switch", "--quiet", "feat/demo-1")
    scratch.git("commit", "--quiet", "--amend", "--message", "Part 1")
    said = scratch.run("restack", "--execute")
    assert said.exit_code == 1
    assert said.text.startswith("feat/demo-2 has a merge commit, ")


def test_configured_habits_of_a_user_change_nothing(scratch: Scratch) -> None:
    for name, value in {
        "rebase.autoSquash": "true",
        "rebase.autoStash": "true",
        "rebase.updateRefs": "false",
        "rebase.missingCommitsCheck": "error",
        "pull.rebase": "true",
        "core.pager": "false",
        "color.ui": "always",
        "format.pretty": "oneline",
        "diff.external": "false",
    }.items():
        scratch.git("config", name, value)
    scratch.git("branch", "backup", "feat/demo-2")
    scratch.git("switch", "--quiet", "feat/demo-1")
    scratch.git("commit", "--quiet", "--amend", "--message", "Part 1")
    said = scratch.run("restack", "--execute")
    assert said.exit_code == 0, said.text
    check_row(scratch, 1)


@pytest.fixture
def pushed(scratch: Scratch, tmp_path: Path) -> Scratch:
    """Every branch is at a bare remote, too."""
    scratch.git("init", "--quiet", "--bare", str(tmp_path / "origin"))
    scratch.git("remote", "add", "origin", str(tmp_path / "origin"))
    names = [f"feat/demo-{number}" for number in (1, 2, 3)]
    scratch.git("push", "--quiet", "--set-upstream", "origin", "main", *names)
    return scratch


def push_commands(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.startswith("  git push")]


def test_pushes_carry_the_id_that_the_remote_had(pushed: Scratch) -> None:
    recorded = {number: pushed.id(f"origin/feat/demo-{number}") for number in (2, 3)}
    pushed.squash("feat/demo-1", "demo/1")
    said = pushed.run("restack", "--execute")
    commands = push_commands(said.text)
    assert commands == [
        f"git push --force-with-lease=refs/heads/feat/demo-{number}:{recorded[number]} "
        f"origin feat/demo-{number}"
        for number in (2, 3)
    ]
    for command in commands:
        subprocess.run(shlex.split(command), cwd=pushed.root, check=True, capture_output=True)
    assert push_commands(pushed.run("restack").text) == []
    assert pushed.id("origin/feat/demo-3") == pushed.id("feat/demo-3")


def colleague(pushed: Scratch, tmp_path: Path) -> str:
    """Let another clone push to the second milestone; return the commit."""
    pushed.git("clone", "--quiet", str(tmp_path / "origin"), str(tmp_path / "colleague"))
    other = Scratch(tmp_path / "colleague")
    other.git("switch", "--quiet", "feat/demo-2")
    other.git("commit", "--quiet", "--amend", "--message", "Theirs")
    commit = other.commit("More of theirs", {"theirs.txt": ""})
    other.git("push", "--quiet", "--force", "origin", "feat/demo-2")
    return commit


def test_a_push_after_a_force_push_that_nobody_saw_is_rejected(
    pushed: Scratch, tmp_path: Path
) -> None:
    theirs = colleague(pushed, tmp_path)
    pushed.squash("feat/demo-1", "demo/1")
    commands = push_commands(pushed.run("restack", "--execute").text)
    pushed.git("fetch", "--quiet")  # a lease without an id would be lost here
    done = subprocess.run(
        shlex.split(commands[0]), cwd=pushed.root, check=False, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "stale info" in done.stderr
    assert Scratch(tmp_path / "origin").id("feat/demo-2") == theirs


def test_a_force_push_that_was_fetched_is_detected(pushed: Scratch, tmp_path: Path) -> None:
    theirs = colleague(pushed, tmp_path)
    pushed.squash("feat/demo-1", "demo/1")
    pushed.git("fetch", "--quiet")
    before = pushed.heads()
    said = pushed.run("restack", "--execute")
    assert said.exit_code == 1
    assert said.text.startswith(f"origin/feat/demo-2 is at {theirs[:12]}, which was never")
    assert pushed.heads() == before
    for command in said.hint[1].partition(": ")[2].split(" && "):
        pushed.git(*shlex.split(command)[1:])
    assert pushed.run("restack", "--execute").exit_code == 0
    assert own_subjects(pushed, "main", "feat/demo-2") == [
        "Name part 2",
        "Theirs",
        "More of theirs",
    ]


def test_what_was_restacked_but_not_pushed_is_no_force_push_of_somebody_else(
    pushed: Scratch,
) -> None:
    pushed.squash("feat/demo-1", "demo/1")
    assert pushed.run("restack", "--execute").exit_code == 0
    pushed.commit("Elsewhere", {"else.txt": ""})
    assert pushed.run("restack", "--execute").exit_code == 0
    pushed.git("reflog", "expire", "--expire=now", "--all")
    pushed.commit("Elsewhere again", {"else.txt": "else"})
    assert pushed.run("restack", "--execute").exit_code == 0
    check_row(pushed, 2)


def test_a_branch_that_is_only_at_the_remote_is_told(pushed: Scratch) -> None:
    pushed.git("branch", "--quiet", "-D", "feat/demo-3")
    pushed.squash("feat/demo-1", "demo/1")
    said = pushed.run("restack", "--execute")
    assert said.exit_code == 0
    assert "demo/3 is not here: git switch feat/demo-3, then restack again" in said.text
    assert own_subjects(pushed, "main", "feat/demo-2") == ["Name part 2", "Part 2"]


def test_milestones_that_changed_places_are_refused(tmp_path: Path) -> None:
    """The branches sit on each other in the old order; nothing may move, and git is not blamed."""
    scratch = Scratch(tmp_path / "new")
    scratch.begin(parts=3)
    for number in (1, 2, 3):
        scratch.git("switch", "--quiet", "--create", f"feat/demo-{number}")
        scratch.commit(f"Part {number}", part(number))
    scratch.git("switch", "--quiet", "main")
    path = scratch.root / "docs/stack/demo.toml"
    text = path.read_text(encoding="utf-8")
    text = text.replace("feat/demo-2", "feat/x").replace("feat/demo-3", "feat/demo-2")
    path.write_text(text.replace("feat/x", "feat/demo-3"), encoding="utf-8")
    scratch.commit("Reorder")
    before = scratch.heads()
    for arguments in ((), ("--execute",)):
        said = scratch.run("restack", *arguments)
        assert said.exit_code == 1
        assert said.text.endswith("they have changed places, and nothing was moved")
    assert scratch.heads() == before
    commands = [line.strip() for line in said.hint if line.startswith("  git ")]
    for command in commands:
        subprocess.run(shlex.split(command), cwd=scratch.root, check=True, capture_output=True)
    scratch.git("switch", "--quiet", "main")
    assert scratch.run("restack").exit_code == 0
    own = scratch.git("log", "--format=%s", "feat/demo-1..feat/demo-2").splitlines()
    assert own == ["Part 2", "Part 3"]
