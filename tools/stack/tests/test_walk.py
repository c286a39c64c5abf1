"""A stack as a tree, and walking in it."""

from __future__ import annotations

from .project import manifest
from .scratch import Scratch
from .test_status import prove


def test_the_log_is_a_tree_with_the_trunk_at_the_bottom(scratch: Scratch) -> None:
    prove(scratch, 1)
    scratch.git("switch", "--quiet", "feat/demo-2")
    assert scratch.run("log", "demo").text.splitlines() == [
        "demo  The demo",
        "o 3/3  feat/demo-3  draft, no record  Part 3",
        "* 2/3  feat/demo-2  draft, no record  Part 2",
        "o 1/3  feat/demo-1  ready, 6/6  Part 1",
        "main",
    ]
    assert scratch.run("log", "other").text.startswith("there is no stack 'other'")


def test_branches_of_a_tree_stand_beside_each_other(scratch: Scratch) -> None:
    scratch.change_manifest('parent = "demo/2"', 'parent = "demo/1"')
    assert [line.partition("  ")[0] for line in scratch.run("log").text.splitlines()] == [
        "demo",
        "| o 3/3",
        "o 2/3",
        "o 1/3",
        "main",
    ]
    scratch.git("switch", "--quiet", "feat/demo-1")
    said = scratch.run("up")
    assert said.text == "2 milestones are based on demo/1"
    assert said.hint == ("  git switch feat/demo-2", "  git switch feat/demo-3")


def test_up_and_down_walk_from_branch_to_branch(scratch: Scratch) -> None:
    scratch.git("switch", "--quiet", "feat/demo-1")
    for branch in ("feat/demo-2", "feat/demo-3"):
        assert scratch.run("up").text == f"{branch} is checked out\n"
        assert scratch.repository.head() == f"refs/heads/{branch}"
    said = scratch.run("up")
    assert (said.exit_code, said.text) == (1, "demo/3 is the highest of demo that has a branch")
    for branch in ("feat/demo-2", "feat/demo-1", "main"):
        assert scratch.run("down").text == f"{branch} is checked out\n"
    assert scratch.run("down").text == "main is the branch of no milestone"


def test_down_passes_what_is_merged(scratch: Scratch) -> None:
    scratch.squash("feat/demo-1", "demo/1")
    scratch.git("switch", "--quiet", "feat/demo-2")
    assert scratch.run("down").text == "main is checked out\n"


def test_up_from_the_trunk_is_to_the_lowest(scratch: Scratch) -> None:
    assert scratch.run("up").text == "feat/demo-1 is checked out\n"
    scratch.squash("feat/demo-1", "demo/1")
    assert scratch.run("up").text == "feat/demo-2 is checked out\n"
    scratch.git("switch", "--quiet", "main")
    scratch.write({"docs/stack/other.toml": manifest(1, "other")})
    scratch.git("branch", "feat/other-1", "main")
    said = scratch.run("up")
    assert said.text == "2 milestones are based on main"
    assert said.hint == ("  git switch feat/demo-2", "  git switch feat/other-1")
    for branch in ("feat/demo-2", "feat/demo-3", "feat/other-1"):
        scratch.git("branch", "--quiet", "-D", branch)
    assert scratch.run("up").text == "no milestone with a branch is based on main"


def test_up_passes_what_has_no_branch_as_down_does(scratch: Scratch) -> None:
    scratch.git("branch", "--quiet", "-D", "feat/demo-2")
    scratch.git("switch", "--quiet", "feat/demo-1")
    assert scratch.run("up").text == "feat/demo-3 is checked out\n"
    assert scratch.run("down").text == "feat/demo-1 is checked out\n"
