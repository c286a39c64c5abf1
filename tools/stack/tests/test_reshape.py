"""A milestone between others: a new one, or a part of one that is there."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from .project import manifest
from .scratch import Said, Scratch
from .test_restack import own_subjects
from .test_status import prove

NEW = ("--title", "Between", "--branch", "feat/between")


def tables(scratch: Scratch, stack: str = "demo") -> list[dict[str, Any]]:
    text = (scratch.root / f"docs/stack/{stack}.toml").read_text(encoding="utf-8")
    found: list[dict[str, Any]] = tomllib.loads(text)["milestone"]
    return found


def places(scratch: Scratch) -> list[tuple[int, str, str]]:
    return [(one["id"], one["branch"], one["parent"]) for one in tables(scratch)]


def files(scratch: Scratch) -> dict[str, bytes]:
    """Return every file of the pages folder."""
    found = (scratch.root / "docs/stack").rglob("*")
    return {
        str(path.relative_to(scratch.root)): path.read_bytes() for path in found if path.is_file()
    }


def done(said: Said) -> str:
    assert said.exit_code == 0, said.text
    return said.text


BETWEEN = [
    (1, "feat/demo-1", "main"),
    (2, "feat/between", "demo/1"),
    (3, "feat/demo-2", "demo/2"),
    (4, "feat/demo-3", "demo/3"),
]


def test_a_milestone_between_two(scratch: Scratch) -> None:
    before, text = scratch.heads(), files(scratch)
    scratch.git("switch", "--quiet", "feat/demo-3")
    said = done(scratch.run("insert", "demo/1", *NEW))
    assert said.splitlines() == [
        f"demo/2 is feat/between, at {scratch.id('feat/demo-1')[:12]}",
        "demo/3 becomes demo/4",
        "demo/2 becomes demo/3",
        "demo/3 is based on demo/2",
        "writes docs/stack/demo.toml",
        "nothing was changed; to do it: --execute",
    ]
    assert (scratch.heads(), files(scratch)) == (before, text)
    done(scratch.run("insert", "demo/1", *NEW, "--execute"))
    assert scratch.heads() == before | {"refs/heads/feat/between": scratch.id("feat/demo-1")}
    assert scratch.repository.head() == "refs/heads/feat/demo-3"
    assert places(scratch) == BETWEEN
    new = tables(scratch)[1]
    assert (new["title"], new["scope"], new["next"]) == ("Between", ["Between"], "Part 2.")
    assert new["issue"] == 7
    assert scratch.repository.changes() == [" M docs/stack/demo.toml"]

    undone = done(scratch.run("undo"))
    assert "  feat/between  " in undone
    assert "  docs/stack/demo.toml  as it was\n" in undone
    done(scratch.run("undo", "--execute"))
    assert (scratch.heads(), files(scratch)) == (before, text)
    assert scratch.repository.refs("refs/stack/fork/") == {}
    assert scratch.repository.head() == "refs/heads/feat/demo-3"
    newest = scratch.run("undo", "--list").text.split()[0]
    done(scratch.run("undo", "--entry", newest, "--execute"))  # and back again
    assert places(scratch) == BETWEEN
    assert "refs/heads/feat/between" in scratch.heads()


def test_work_on_it_moves_what_is_above(scratch: Scratch) -> None:
    done(scratch.run("insert", "demo/1", *NEW, "--execute"))
    scratch.git("add", "--all")
    scratch.git("commit", "--quiet", "--message", "A plan")
    scratch.git("switch", "--quiet", "feat/between")
    scratch.commit("Between", {"between.txt": ""})
    scratch.git("switch", "--quiet", "main")
    done(scratch.run("restack", "--execute"))
    assert own_subjects(scratch, "feat/between", "feat/demo-2") == ["Name part 2", "Part 2"]
    assert own_subjects(scratch, "feat/demo-2", "feat/demo-3") == ["Name part 3", "Part 3"]
    assert own_subjects(scratch, "feat/demo-1", "feat/between") == ["Between"]


def test_a_parent_that_was_amended_before_there_was_work_on_it(scratch: Scratch) -> None:
    done(scratch.run("insert", "demo/1", *NEW, "--execute"))
    scratch.git("commit", "--quiet", "--all", "--message", "A plan")
    scratch.git("switch", "--quiet", "feat/demo-1")
    scratch.git("commit", "--quiet", "--amend", "--message", "Part 1 anew")
    scratch.git("switch", "--quiet", "main")
    scratch.git("reflog", "expire", "--expire=now", "--all")
    said = done(scratch.run("restack", "--execute"))
    assert "0 commits of its own before, 0 now\n" in said
    assert scratch.id("feat/between") == scratch.id("feat/demo-1")
    assert own_subjects(scratch, "feat/between", "feat/demo-2") == ["Name part 2", "Part 2"]


def test_it_is_not_merged_with_the_one_below_it(scratch: Scratch) -> None:
    """It has the tree of the squash, and that is another milestone's by its trailer."""
    done(scratch.run("insert", "demo/1", *NEW, "--execute"))
    scratch.git("commit", "--quiet", "--all", "--message", "A plan")
    scratch.git("rebase", "--quiet", "--onto", "main", "main~1", "feat/demo-1")
    scratch.git("branch", "--force", "feat/between", "feat/demo-1")
    scratch.squash("feat/demo-1", "demo/1")
    assert scratch.repository.tree("main") == scratch.repository.tree("feat/between")
    assert scratch.states()["demo/1"] == "merged"
    assert scratch.states()["demo/2"] == "stale"


def test_comments_line_ends_and_other_manifests(scratch: Scratch) -> None:
    path = scratch.root / "docs/stack/demo.toml"
    text = path.read_text(encoding="utf-8").replace(
        "[[milestone]]\nid = 2", "# What follows is hard.\n[[milestone]]\nid = 2  # two"
    )
    path.write_bytes(text.replace("\n", "\r\n").encode())
    other = manifest(1, "other").replace("id = 1", 'id = 1\ndepends = ["demo/1", "demo/3"]  # both')
    scratch.write({"docs/stack/other.toml": other})
    done(scratch.run("insert", "demo/1", *NEW, "--scope", "One", "--scope", 'A "two"', "--execute"))
    after = path.read_bytes()
    assert after.count(b"\n") == after.count(b"\r\n")
    block = (
        '[[milestone]]\nid = 2\ntitle = "Between"\nbranch = "feat/between"\nparent = "demo/1"\n'
        'issue = 7\nscope = ["One", "A \\"two\\""]\nnext = "Part 2."\n\n'
        "# What follows is hard.\n[[milestone]]\nid = 3  # two\n"
    )
    assert block in after.decode().replace("\r\n", "\n")
    assert 'depends = ["demo/1", "demo/4"]  # both' in (
        scratch.root / "docs/stack/other.toml"
    ).read_text(encoding="utf-8")


def test_pages_go_with_their_milestones(scratch: Scratch) -> None:
    prove(scratch, 1, 2)
    done(scratch.run("render", "--refresh"))
    page = scratch.root / "docs/stack/demo/2.md"
    page.write_text(page.read_text(encoding="utf-8") + "\nMy words.\n", encoding="utf-8")
    text = files(scratch)
    done(scratch.run("insert", "demo/1", *NEW, "--execute"))
    done(scratch.run("render", "--refresh"))
    assert "My words" in (scratch.root / "docs/stack/demo/3.md").read_text(encoding="utf-8")
    assert "My words" not in page.read_text(encoding="utf-8")
    assert not (scratch.root / "docs/stack/records/demo/2.json").exists()
    assert (scratch.root / "docs/stack/records/demo/1.json").exists()
    done(scratch.run("render", "--check"))
    refused = scratch.run("undo", "--execute")  # `render` has written them since
    assert refused.text.startswith("moved since then: ")
    assert "docs/stack/demo/2.md" in refused.text
    done(scratch.run("undo", "--execute", "--force"))
    assert "My words" in page.read_text(encoding="utf-8")
    assert (
        files(scratch)["docs/stack/records/demo/2.json"] == text["docs/stack/records/demo/2.json"]
    )


def test_recorded_fork_points_keep_their_milestones(scratch: Scratch) -> None:
    scratch.git("switch", "--quiet", "feat/demo-1")
    scratch.git("commit", "--quiet", "--amend", "--message", "Part 1 anew")
    done(scratch.run("restack", "--execute"))
    forks = scratch.repository.refs("refs/stack/fork/")
    done(scratch.run("insert", "demo/1", *NEW, "--execute"))
    assert scratch.repository.refs("refs/stack/fork/") == {
        "refs/stack/fork/demo/2": scratch.id("feat/demo-1"),
        "refs/stack/fork/demo/3": forks["refs/stack/fork/demo/2"],
        "refs/stack/fork/demo/4": forks["refs/stack/fork/demo/3"],
    }
    done(scratch.run("undo", "--execute"))
    assert scratch.repository.refs("refs/stack/fork/") == forks


def test_at_the_end_and_at_the_beginning(scratch: Scratch) -> None:
    done(scratch.run("insert", "demo/3", *NEW, "--execute"))
    assert places(scratch)[3:] == [(4, "feat/between", "demo/3")]
    assert tables(scratch)[3]["next"] == "Nothing: it is the last one."
    scratch.commit("Elsewhere", {"else.txt": ""})
    left = scratch.id("main^")
    done(scratch.run("insert", "demo/0", "--title", "First", "--branch", "first", "--execute"))
    assert places(scratch)[:2] == [(1, "first", "main"), (2, "feat/demo-1", "demo/1")]
    assert scratch.id("first") == left


def test_what_is_not_begun_gets_no_branch(scratch: Scratch) -> None:
    for number in (2, 3):
        scratch.git("branch", "--quiet", "-D", f"feat/demo-{number}")
    before = scratch.heads()
    said = done(scratch.run("insert", "demo/2", *NEW, "--execute"))
    assert said.startswith("demo/3 is planned: what is below has no branch yet\n")
    assert scratch.heads() == before
    assert places(scratch)[2:] == [(3, "feat/between", "demo/2"), (4, "feat/demo-3", "demo/3")]
    done(scratch.run("undo", "--execute"))
    assert scratch.repository.changes() == []


def test_what_is_merged_keeps_its_number(scratch: Scratch) -> None:
    scratch.squash("feat/demo-1", "demo/1")
    said = scratch.run("insert", "demo/0", *NEW, "--execute")
    assert said.text == (
        f"demo/1 is merged as {scratch.id('main')[:12]}, so it keeps its number, and nothing can "
        "come before it"
    )
    done(scratch.run("insert", "demo/1", *NEW, "--execute"))
    assert places(scratch)[1] == (2, "feat/between", "demo/1")
    assert scratch.states()["demo/1"] == "merged"
    assert scratch.states()["demo/2"] == "draft"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["demo/4", *NEW], "there is no milestone 'demo/4'; there are demo/1, demo/2, demo/3"),
        (["demo", *NEW], "there is no milestone 'demo'; there are demo/1, demo/2, demo/3"),
        (
            ["demo/1", "--title", "x", "--branch", "feat/demo-3"],
            "there is a branch refs/heads/feat/demo-3 already",
        ),
        (["demo/1", "--title", "x", "--branch", "a..b"], "'a..b' is not the name of a branch"),
        (
            ["demo/1", "--title", "x", "--branch", "main"],
            "there is a branch refs/heads/main already",
        ),
        (
            ["demo/1", "--title", " ", "--branch", "b"],
            "docs/stack/demo.toml:18: milestone[2].title:",
        ),
    ],
)
def test_a_bad_insertion_changes_nothing(scratch: Scratch, arguments: list[str], why: str) -> None:
    before, text = scratch.heads(), files(scratch)
    said = scratch.run("insert", *arguments, "--execute")
    assert said.exit_code == 1
    assert said.text.startswith(why)
    assert (scratch.heads(), files(scratch)) == (before, text)
    assert scratch.run("undo", "--list").text == "the journal is empty\n"


def test_a_file_that_changed_since_is_not_lost_by_undo(scratch: Scratch) -> None:
    done(scratch.run("insert", "demo/1", *NEW, "--execute"))
    scratch.change_manifest('title = "Between"', 'title = "Between two"')
    said = scratch.run("undo", "--execute")
    assert said.text.startswith("moved since then: docs/stack/demo.toml;")
    assert tables(scratch)[1]["title"] == "Between two"
    done(scratch.run("undo", "--execute", "--force"))
    assert scratch.repository.changes() == []


def test_other_changes_still_keep_undo_from_running(scratch: Scratch) -> None:
    done(scratch.run("insert", "demo/1", *NEW, "--execute"))
    scratch.write({"README.md": "mine\n"})
    said = scratch.run("undo", "--execute")
    assert said.text == "the working tree has changes: README.md"


def test_undo_from_the_new_branch(scratch: Scratch) -> None:
    before = scratch.heads()
    done(scratch.run("insert", "demo/1", *NEW, "--execute"))
    scratch.git("switch", "--quiet", "feat/between")
    done(scratch.run("undo", "--execute"))
    assert scratch.heads() == before
    assert scratch.repository.head() == "refs/heads/main"


SPLIT = ("--title", "Names", "--branch", "feat/names")


def test_one_milestone_becomes_two(scratch: Scratch) -> None:
    before, text = scratch.heads(), files(scratch)
    at = scratch.id("feat/demo-2^")
    scratch.git("switch", "--quiet", "feat/demo-2")
    said = done(scratch.run("split", "demo/2", "--at", at[:10], *SPLIT, "--execute"))
    assert said.startswith(f"demo/2 is feat/names, at {at[:12]}\n")
    assert scratch.heads() == before | {"refs/heads/feat/names": at}
    assert places(scratch) == [
        (1, "feat/demo-1", "main"),
        (2, "feat/names", "demo/1"),
        (3, "feat/demo-2", "demo/2"),
        (4, "feat/demo-3", "demo/3"),
    ]
    assert own_subjects(scratch, "feat/demo-1", "feat/names") == ["Name part 2"]
    assert own_subjects(scratch, "feat/names", "feat/demo-2") == ["Part 2"]
    assert scratch.run("restack").text.startswith("demo: every branch sits on what its parent is")
    done(scratch.run("undo", "--execute"))
    assert (scratch.heads(), files(scratch)) == (before, text)
    assert scratch.repository.head() == "refs/heads/feat/demo-2"


def test_both_parts_follow_an_amended_parent_and_grow(scratch: Scratch) -> None:
    done(scratch.run("split", "demo/2", "--at", "feat/demo-2^", *SPLIT, "--execute"))
    scratch.git("commit", "--quiet", "--all", "--message", "A plan")
    scratch.git("switch", "--quiet", "feat/demo-2")
    scratch.commit("More", {"more.txt": ""})
    scratch.git("switch", "--quiet", "feat/names")
    scratch.commit("Lower", {"lower.txt": ""})
    scratch.git("switch", "--quiet", "feat/demo-1")
    scratch.git("commit", "--quiet", "--amend", "--message", "Part 1 anew")
    scratch.git("switch", "--quiet", "main")
    done(scratch.run("restack", "--execute"))
    assert own_subjects(scratch, "feat/demo-1", "feat/names") == ["Name part 2", "Lower"]
    assert own_subjects(scratch, "feat/names", "feat/demo-2") == ["Part 2", "More"]
    assert own_subjects(scratch, "feat/demo-2", "feat/demo-3") == ["Name part 3", "Part 3"]


def test_fork_points_in_the_manifest_follow_a_split(scratch: Scratch) -> None:
    done(scratch.run("fork-points", "--write"))
    done(scratch.run("split", "demo/2", "--at", "feat/demo-2^", *SPLIT, "--execute"))
    assert [one.get("fork_point") for one in tables(scratch)] == [
        scratch.id("main"),
        scratch.id("feat/demo-1"),
        scratch.id("feat/names"),
        scratch.id("feat/demo-2"),
    ]


@pytest.mark.parametrize("at", ["feat/demo-2", "feat/demo-1", "main", "feat/demo-3", "nothing"])
def test_a_commit_that_is_not_in_the_middle_is_refused(scratch: Scratch, at: str) -> None:
    before, text = scratch.heads(), files(scratch)
    said = scratch.run("split", "demo/2", "--at", at, *SPLIT, "--execute")
    assert said.text == f"{at!r} is not a commit of demo/2 that others of it follow"
    assert [line.split()[1:] for line in said.hint[1:]] == [["Part", "2"], ["Name", "part", "2"]]
    assert (scratch.heads(), files(scratch)) == (before, text)


def test_what_has_no_branch_cannot_be_split(scratch: Scratch) -> None:
    scratch.git("branch", "--quiet", "-D", "feat/demo-3")
    said = scratch.run("split", "demo/3", "--at", "main", *SPLIT)
    assert said.text == "demo/3 has no branch, so it has no commits to split"
    assert scratch.run("split", "demo/0", "--at", "main", *SPLIT).exit_code == 1


def test_a_rebase_that_waits_is_refused(scratch: Scratch) -> None:
    scratch.commit("Contradiction", {"README.md": "else\n"})
    scratch.repository.attempt("rebase", "main", "feat/demo-2")
    assert scratch.repository.rebase_in_progress()
    said = scratch.run("insert", "demo/1", *NEW, "--execute")
    assert said.text == "a rebase waits here"
    assert not Path(scratch.root / ".git/refs/heads/feat/between").exists()
