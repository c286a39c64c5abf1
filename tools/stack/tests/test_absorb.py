"""A staged fix-up goes to the milestone whose lines it changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from .fake_gh import add_remote
from .scratch import Make, Scratch, write_executable
from .test_restack import own_subjects


@pytest.fixture
def top(make: Make) -> Scratch:
    """The highest branch is checked out. Each part has ten lines of its own."""
    return make(with_lines)


def with_lines(scratch: Scratch) -> None:
    for number in (1, 2, 3):
        scratch.git("switch", "--quiet", f"feat/demo-{number}")
        text = "".join(f"line{line}={number}\n" for line in range(10))
        scratch.commit(f"Lines {number}", {f"src/lines{number}.sh": text})
        if number < 3:
            scratch.git("rebase", "--quiet", f"feat/demo-{number}", f"feat/demo-{number + 1}")


def change(scratch: Scratch, name: str, old: str, new: str) -> None:
    path = scratch.root / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    scratch.git("add", name)


def staged(scratch: Scratch) -> str:
    return scratch.git("diff", "--cached", "HEAD")


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_change_goes_where_its_lines_are_from(top: Scratch, number: int) -> None:
    before = top.heads()
    change(top, f"src/lines{number}.sh", f"line4={number}\n", "line4=fixed\n")
    wanted = top.git("write-tree")
    said = top.run("absorb")
    assert said.exit_code == 0, said.text
    assert said.text.startswith(
        f"src/lines{number}.sh: a commit of demo/{number}, on feat/demo-{number}\n"
    )
    assert said.text.endswith("nothing was changed; to do it: --execute\n")
    assert top.heads() == before
    assert top.git("write-tree") == wanted

    difference = staged(top)
    said = top.run("absorb", "--execute")
    assert said.exit_code == 0, said.text
    assert top.repository.head() == "refs/heads/feat/demo-3"
    assert top.repository.changes() == []
    assert top.repository.tree("HEAD") == wanted
    subjects = own_subjects(top, "main", f"feat/demo-{number}")
    assert subjects[-1] == f"Fix up: Part {number}"
    assert len(subjects) == 3 * number + 1
    for below, branch in (("main", "feat/demo-1"), ("feat/demo-1", "feat/demo-2")):
        assert top.repository.is_ancestor(below, branch)
    assert top.git("log", "-1", "--format=%an", f"feat/demo-{number}") == "A Tester"
    assert top.run("restack").text.startswith("demo: every branch sits on what its parent is")

    assert top.run("undo", "--execute").exit_code == 0
    assert top.heads() == before
    assert top.repository.head() == "refs/heads/feat/demo-3"
    assert top.git("diff", "HEAD") == difference


def test_in_the_middle_of_a_stack_and_with_a_message(top: Scratch) -> None:
    top.git("switch", "--quiet", "feat/demo-2")
    change(top, "src/lines1.sh", "line4=1\n", "line4=fixed\n")
    assert top.run("absorb", "-m", "Mend line 4", "--execute").exit_code == 0
    assert top.repository.head() == "refs/heads/feat/demo-2"
    assert own_subjects(top, "main", "feat/demo-1")[-1] == "Mend line 4"
    assert top.git("show", "feat/demo-3:src/lines1.sh").splitlines()[4] == "line4=fixed"
    assert top.repository.is_ancestor("feat/demo-2", "feat/demo-3")


def test_several_parts_of_one_milestone_go_together(top: Scratch) -> None:
    change(top, "src/lines1.sh", "line0=1\n", "")  # a line goes
    change(top, "src/lines1.sh", "line4=1\n", "line4=1\nmore=1\n")  # one comes
    change(top, "src/part1.sh", "answer1=1\n", "answer1=$((1))\n")
    assert top.run("absorb", "--execute").exit_code == 0
    assert top.git("diff", "--name-only", "feat/demo-1^", "feat/demo-1").split() == [
        "src/lines1.sh",
        "src/part1.sh",
    ]


@pytest.mark.parametrize(("beside", "key"), [("0", "demo/1"), ("3", "demo/3")])
def test_an_addition_beside_a_line_of_a_milestone_is_its(
    top: Scratch, beside: str, key: str
) -> None:
    """The README is the trunk's down to part 0, and then has a line of each milestone."""
    line = f"`src/part{beside}.sh`\n"
    change(top, "README.md", line, f"{line}More\n")
    said = top.run("absorb")
    assert f"README.md: a commit of {key}, on " in said.text, said.hint


def test_an_addition_between_lines_of_two_milestones_is_refused(top: Scratch) -> None:
    change(top, "README.md", "`src/part1.sh`\n", "`src/part1.sh`\nMore\n")
    said = top.run("absorb", "--execute")
    assert said.hint[0] == "  README.md:4 belongs to demo/1 and demo/2"


def test_lines_of_several_milestones_are_refused(top: Scratch) -> None:
    before = top.heads()
    change(top, "src/lines1.sh", "line4=1\n", "line4=fixed\n")
    change(top, "src/lines2.sh", "line4=2\n", "line4=fixed\n")
    difference = staged(top)
    said = top.run("absorb", "--execute")
    assert said.exit_code == 1
    assert said.text == "the staged lines do not belong to one milestone, and nothing was changed"
    assert said.hint == (
        "  src/lines1.sh:5 belongs to demo/1",
        "  src/lines2.sh:5 belongs to demo/2",
        "Stage less (git restore --staged FILE), or say whose it is:",
        "  nox -s stack -- absorb --into demo/1",
        "  nox -s stack -- absorb --into demo/2",
        "  nox -s stack -- absorb --into demo/3",
    )
    assert (top.heads(), staged(top)) == (before, difference)


def test_a_hunk_over_lines_of_two_milestones_is_refused(top: Scratch) -> None:
    change(top, "README.md", "`src/part1.sh`\n`src/part2.sh`\n", "`src/both.sh`\n")
    said = top.run("absorb", "--execute")
    assert said.hint[0] == "  README.md:4 belongs to demo/1 and demo/2"
    assert said.exit_code == 1


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"src/part0.sh": "answer0=$((0))\n"}, "  src/part0.sh:1 belongs to main"),
        ({"new.sh": "new=1\n"}, "  new.sh belongs to no milestone: it is new, or has no lines"),
    ],
)
def test_lines_of_the_trunk_and_new_files_are_refused(
    top: Scratch, files: dict[str, str], told: str
) -> None:
    before = top.heads()
    top.write(files)
    top.git("add", "--all")
    difference = staged(top)
    said = top.run("absorb", "--execute")
    assert said.text == "the staged lines do not belong to one milestone, and nothing was changed"
    assert said.hint[0] == told
    assert (top.heads(), staged(top)) == (before, difference)
    said = top.run("absorb", "--into", "demo/2", "--execute")  # said is said
    assert said.exit_code == 0, said.text
    assert top.git("diff", "--name-only", "feat/demo-2^", "feat/demo-2") == next(iter(files))
    assert top.run("undo", "--execute").exit_code == 0
    top.git("add", "--all")
    assert (top.heads(), staged(top)) == (before, difference)


def test_a_file_that_goes_away_and_odd_names(top: Scratch) -> None:
    top.git("rm", "--quiet", "src/lines1.sh")
    assert top.run("absorb", "--execute").exit_code == 0
    assert own_subjects(top, "main", "feat/demo-1")[-1] == "Fix up: Part 1"
    assert not (top.root / "src/lines1.sh").exists()
    name = 'größe "mit" leer [1].sh'
    top.commit("A name", {name: "a=1\nb=2\n"})
    change(top, name, "b=2", "b=3")
    assert top.run("absorb", "--execute").exit_code == 0
    assert top.git("show", f"feat/demo-3:{name}") == "a=1\nb=3"


def test_links_and_modes_come_back(top: Scratch) -> None:
    outside = top.root.parent / "outside"
    outside.write_text("not mine\n", encoding="utf-8")
    (top.root / "link").symlink_to(outside)
    write_executable(top.root / "run.sh", "run=1\n")
    top.git("add", "--all")
    difference = staged(top)
    assert top.run("absorb", "--into", "demo/1", "--execute").exit_code == 0
    assert top.git("ls-tree", "feat/demo-1", "link", "run.sh").split()[::4] == ["120000", "100755"]
    assert top.run("undo", "--execute").exit_code == 0
    top.git("add", "--all")
    assert staged(top) == difference
    assert outside.read_text(encoding="utf-8") == "not mine\n"


def test_a_change_that_does_not_fit_below_is_refused(top: Scratch) -> None:
    """A line of the first milestone, changed beside one that the third has changed."""
    change(top, "src/lines1.sh", "line4=1\n", "line4=third\n")
    top.git("commit", "--quiet", "--message", "The third")
    before = top.heads()
    change(top, "src/lines1.sh", "line4=third\nline5=1\n", "line4=third\nline5=fixed\n")
    difference = staged(top)
    said = top.run("absorb", "--execute")
    assert said.exit_code == 1
    assert said.text == "the change does not fit on feat/demo-1: it conflicts in src/lines1.sh"
    assert (top.heads(), staged(top)) == (before, difference)


def test_a_change_that_contradicts_one_above_is_refused(top: Scratch) -> None:
    top.commit("The third", {"src/lines1.sh": "all=new\n"})
    top.git("switch", "--quiet", "feat/demo-2")
    before = top.heads()
    change(top, "src/lines1.sh", "line4=1\n", "line4=fixed\n")
    difference = staged(top)
    said = top.run("absorb", "--execute")
    assert said.text == "demo/3 conflicts with the change, in src/lines1.sh; nothing was changed"
    assert (top.heads(), staged(top)) == (before, difference)


def test_a_conflict_inside_a_branch_waits_and_undo_has_the_change_back(top: Scratch) -> None:
    """Two commits that cancel each other out conflict only at the first one, and not as trees."""
    text = (top.root / "src/lines1.sh").read_text(encoding="utf-8")
    top.commit("Away", {"src/lines1.sh": "all=new\n"})
    top.commit("And back", {"src/lines1.sh": text})
    change(top, "src/lines3.sh", "line4=3\n", "line4=fixed\n")
    top.git("switch", "--quiet", "feat/demo-2", "--force")
    before = top.heads()
    change(top, "src/lines1.sh", "line4=1\n", "line4=fixed\n")
    difference = staged(top)
    said = top.run("absorb", "--execute")
    assert said.text.startswith("conflict at "), said.text
    assert top.run("undo", "--execute").exit_code == 0
    assert top.heads() == before
    assert top.repository.head() == "refs/heads/feat/demo-2"
    assert top.git("diff", "HEAD") == difference


def test_undo_goes_back_to_where_it_was_staged(top: Scratch) -> None:
    before = top.heads()
    change(top, "src/lines1.sh", "line4=1\n", "line4=fixed\n")
    difference = staged(top)
    assert top.run("absorb", "--execute").exit_code == 0
    top.git("switch", "--quiet", "main")
    assert top.run("undo", "--execute").exit_code == 0
    assert top.heads() == before
    assert top.repository.head() == "refs/heads/feat/demo-3"
    assert top.git("diff", "HEAD") == difference


def test_what_is_not_ready_is_refused(top: Scratch, tmp_path: Path) -> None:
    assert top.run("absorb").text == "nothing is staged, so there is nothing to absorb"
    change(top, "src/lines1.sh", "line4=1\n", "line4=fixed\n")
    top.write({"src/lines2.sh": "mine\n"})
    said = top.run("absorb", "--execute")
    assert said.text == "there are changes that are not staged: src/lines2.sh"
    top.git("restore", "src/lines2.sh")
    said = top.run("absorb", "--into", "demo/4")
    assert (
        said.text == "'demo/4' is not below what is checked out; there are demo/1, demo/2, demo/3"
    )
    top.git("worktree", "add", "--quiet", str(tmp_path / "tree"), "feat/demo-1")
    said = top.run("absorb", "--execute")
    assert said.text.startswith("feat/demo-1 is checked out in another worktree")
    top.git("worktree", "remove", str(tmp_path / "tree"))


def test_a_stack_that_waits_for_a_restack_is_refused(top: Scratch) -> None:
    top.git("switch", "--quiet", "feat/demo-1")
    top.commit("More", {"more.txt": ""})
    top.git("switch", "--quiet", "feat/demo-3")
    change(top, "src/lines1.sh", "line4=1\n", "line4=fixed\n")
    said = top.run("absorb", "--execute")
    assert said.text == "feat/demo-2, feat/demo-3 does not sit on what is below; first that"
    assert said.hint == ("nox -s stack -- restack demo --execute",)


def test_a_push_of_somebody_else_is_refused(top: Scratch, tmp_path: Path) -> None:
    add_remote(top, tmp_path / "origin")
    top.git("push", "--quiet", "origin", "feat/demo-1")
    top.git(
        "clone", "--quiet", "--branch", "feat/demo-1", str(tmp_path / "origin"), str(tmp_path / "b")
    )
    other = Scratch(tmp_path / "b")
    theirs = other.commit("Another person", {"theirs.txt": ""})
    other.git("push", "--quiet")
    top.git("fetch", "--quiet")
    change(top, "src/lines1.sh", "line4=1\n", "line4=fixed\n")
    said = top.run("absorb", "--execute")
    assert said.text.startswith(f"origin/feat/demo-1 is at {theirs[:12]}, which was never on")


def test_a_branch_of_no_milestone_is_refused(scratch: Scratch) -> None:
    assert scratch.run("absorb").text == "main is the branch of no milestone"
