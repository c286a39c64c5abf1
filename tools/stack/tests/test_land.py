"""A milestone lands only as what was verified."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path

import pytest

from .project import manifest
from .scratch import Make, Scratch, write_executable
from .test_status import prove


@pytest.fixture
def ready(make: Make) -> Scratch:
    return make(all_proved)


def all_proved(scratch: Scratch) -> None:
    prove(scratch, 1, 2, 3)


def commands(text: str) -> list[list[str]]:
    """Return the commands of an output; the body of a pull request goes over several lines."""
    return [shlex.split(f"{part}") for part in text.partition("\n$ ")[2].split("\n$ ")]


def test_the_squash_has_the_verified_tree_and_the_trailer(ready: Scratch) -> None:
    before, tree = ready.heads(), ready.repository.tree("feat/demo-1")
    old = ready.id("main")
    said = ready.run("land", "demo/1", "--local")
    assert said.text.endswith("nothing was changed; to do it: --execute\n")
    assert ready.heads() == before
    said = ready.run("land", "demo/1", "--local", "--execute")
    assert said.exit_code == 0, said.text
    assert ready.repository.tree("main") == tree
    assert ready.id("main^") == old
    assert ready.git("log", "-1", "--format=%an|%B", "main") == (
        "A Tester|The demo: Part 1 (1/3)\n\n* The part 1\n\nPart of #7\n\nMilestone: demo/1\n"
    )
    assert "refs/heads/feat/demo-1" not in ready.heads()
    assert ready.repository.head() == "refs/heads/main"
    assert ready.repository.changes() == []
    assert ready.status()["demo/1"]["state"] == "merged"
    assert ready.status()["demo/1"]["evidence"]["text"] == "6/6"

    assert ready.run("undo", "--execute").exit_code == 0
    assert ready.heads() == before


def test_the_next_ones_are_moved_from_where_the_landed_branch_ended(ready: Scratch) -> None:
    ready.git("switch", "--quiet", "feat/demo-1")
    tip = ready.id("feat/demo-1")
    ready.run("land", "demo/1", "--local", "--execute")
    assert ready.repository.head() == "refs/heads/main"  # its branch is gone
    ready.git("reflog", "expire", "--expire=now", "--all")
    said = ready.run("restack", "--execute")
    assert f"begin after {tip[:12]} (recorded when it was last moved)" in said.text
    assert ready.states() == {"demo/1": "merged", "demo/2": "ready", "demo/3": "ready"}
    assert ready.run("land", "demo/2", "--local", "--execute").exit_code == 0
    assert ready.run("restack", "--execute").exit_code == 0
    said = ready.run("land", "demo/3", "--local", "--execute")
    assert "Closes #7" in said.text
    assert set(ready.states().values()) == {"merged"}


@pytest.mark.parametrize("number", [2, 3])
def test_parents_land_first(ready: Scratch, number: int) -> None:
    said = ready.run("land", f"demo/{number}")
    assert said.exit_code == 1
    assert said.text == f"demo/{number} lands after demo/{number - 1}, which is ready"


def test_without_evidence_it_is_refused(scratch: Scratch) -> None:
    said = scratch.run("land", "demo/1", "--local", "--execute")
    assert said.exit_code == 1
    assert said.text == "demo/1 is draft (never verified), and only what is ready lands"
    assert said.hint == ("nox -s stack -- verify demo/1",)
    assert "refs/heads/feat/demo-1" in scratch.heads()


def test_with_evidence_of_another_tree_it_is_refused(ready: Scratch) -> None:
    ready.git("switch", "--quiet", "feat/demo-1")
    ready.commit("One more", {"more.txt": ""})
    assert ready.run("land", "demo/1").text.startswith("demo/1 is stale (its records are of")


def test_a_trunk_that_went_on_makes_another_tree(ready: Scratch) -> None:
    ready.commit("Elsewhere", {"else.txt": ""})
    said = ready.run("land", "demo/1")
    assert said.exit_code == 1
    assert said.text == "merged into main, demo/1 would not be what was verified: else.txt"
    assert said.hint == ("nox -s stack -- restack demo", "nox -s stack -- verify demo/1")


def test_a_conflict_with_the_trunk_is_refused(ready: Scratch) -> None:
    ready.commit("Contradiction", {"README.md": "else\n"})
    said = ready.run("land", "demo/1")
    assert said.text == "demo/1 conflicts with main, in README.md"


def test_what_is_merged_planned_or_unknown_cannot_land(ready: Scratch) -> None:
    ready.squash("feat/demo-1", "demo/1")
    assert ready.run("land", "demo/1").text.startswith("demo/1 is merged, and only what is ready")
    ready.git("branch", "--quiet", "-D", "feat/demo-3")
    assert ready.run("land", "demo/3").text == "demo/3 is planned: there is nothing to land"
    said = ready.run("land", "demo/4")
    assert said.text == "there is no milestone 'demo/4'; there are demo/1, demo/2, demo/3"


def test_milestones_of_other_stacks_land_first(ready: Scratch) -> None:
    text = manifest(1, "other")
    ready.write({"docs/stack/other.toml": text})
    ready.git("branch", "feat/other-1", "main")
    ready.change_manifest("id = 1", 'id = 1\ndepends = ["other/1"]')
    said = ready.run("land", "demo/1")
    assert said.text.startswith("demo/1 is blocked (waits for other/1, which is draft)")


def test_a_dirty_tree_is_refused(ready: Scratch) -> None:
    ready.write({"README.md": "mine\n"})
    before = ready.heads()
    said = ready.run("land", "demo/1", "--local", "--execute")
    assert said.text == "the working tree has changes: README.md"
    assert ready.heads() == before


def test_a_trunk_in_another_worktree_is_refused(ready: Scratch, tmp_path: Path) -> None:
    ready.git("switch", "--quiet", "feat/demo-1")
    ready.git("worktree", "add", "--quiet", str(tmp_path / "other"), "main")
    before = ready.heads()
    said = ready.run("land", "demo/1", "--local", "--execute")
    assert said.text.startswith("refs/heads/main is checked out in another worktree")
    assert ready.heads() == before


@pytest.fixture
def forge(ready: Scratch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pull requests, a remote, and a `gh` that writes down how it is called."""
    ready.git("init", "--quiet", "--bare", str(tmp_path / "origin"))
    ready.git("remote", "add", "origin", str(tmp_path / "origin"))
    ready.git("push", "--quiet", "--set-upstream", "origin", "main", "feat/demo-1")
    for number in (1, 2):
        ready.change_manifest(f"id = {number}", f"id = {number}\npr = {50 + number}")
    called = tmp_path / "called"
    called.touch()
    gh = tmp_path / "bin/gh"
    write_executable(
        gh,
        "#!/usr/bin/env python3\nimport json, subprocess, sys\n"
        f"with open({str(called)!r}, 'a') as file:\n"
        "    print(json.dumps(sys.argv[1:]), file=file)\n"
        "def git(*words): subprocess.run(['git', *words], check=True)\n"
        "if 'view' in sys.argv:\n"
        "    state = 'CLOSED' if '66' in sys.argv else 'OPEN'\n"
        "    base = 'feat/demo-0' if '67' in sys.argv else 'main'\n"
        "    told = {'number': int(sys.argv[3]), 'state': state, 'baseRefName': base}\n"
        "    told |= {'isDraft': False, 'title': '', 'body': '', 'labels': [], 'headRefOid': ''}\n"
        "    print(json.dumps(told))\n"
        "if 'list' in sys.argv:\n"
        "    print('[]')\n"
        "if 'merge' in sys.argv:\n"
        "    subject, body = sys.argv[-3], sys.argv[-1]\n"
        f"    git('clone', '--quiet', {str(tmp_path / 'origin')!r}, {str(tmp_path / 'work')!r})\n"
        f"    forge = ['-C', {str(tmp_path / 'work')!r}]\n"
        "    git(*forge, 'switch', '--quiet', 'main')\n"
        "    git(*forge, 'merge', '--quiet', '--squash', 'origin/feat/demo-1')\n"
        "    git(*forge, 'commit', '--quiet', '--message', subject + '\\n\\n' + body)\n"
        "    git(*forge, 'push', '--quiet', 'origin', 'main', ':feat/demo-1')\n"
        "    git('branch', '-D', 'feat/demo-1')\n"
        "sys.exit('checks' in sys.argv and '77' in sys.argv)\n",
    )
    monkeypatch.setenv("PATH", f"{gh.parent}{os.pathsep}{os.environ['PATH']}")
    return called


def calls(called: Path) -> list[list[str]]:
    return [json.loads(line) for line in called.read_text(encoding="utf-8").splitlines()]


BODY = "* The part 1\n\nPart of #7\n\nMilestone: demo/1"
MERGE = ["pr", "merge", "51", "--squash", "--delete-branch", "--match-head-commit"]
FIELDS = "number,state,isDraft,baseRefName,title,body,labels,headRefOid"
VIEW = ["pr", "view", "51", "--json", FIELDS]


def on_forge(tip: str) -> list[list[str]]:
    """Return what lands a milestone whose branch has a tip."""
    return [
        ["pr", "checks", "51", "--watch"],
        ["pr", "edit", "52", "--base", "main"],
        [*MERGE, tip, "--subject", "The demo: Part 1 (1/3)", "--body", BODY],
    ]


def test_the_commands_for_a_forge_are_printed_and_not_run(ready: Scratch, forge: Path) -> None:
    said = ready.run("land", "demo/1")
    assert said.exit_code == 0
    text = said.text.removesuffix("nothing was changed; to do it: --execute\n")
    assert commands(text) == [["gh", *one] for one in on_forge(ready.id("feat/demo-1"))]
    assert calls(forge) == []


def test_with_execute_they_run_in_order(ready: Scratch, forge: Path) -> None:
    before, tip = ready.heads(), ready.id("feat/demo-1")
    said = ready.run("land", "demo/1", "--execute")
    assert said.exit_code == 0, said.text
    assert calls(forge) == [VIEW, *on_forge(tip)]
    assert ready.id("origin/main^{tree}") == ready.id(f"{tip}^{{tree}}")
    assert ready.repository.refs("refs/stack/fork/") == {"refs/stack/fork/demo/2": tip}
    assert "refs/heads/feat/demo-1" not in ready.heads()  # as gh has it
    ready.git("checkout", "--quiet", "docs/stack")
    assert ready.run("undo", "--execute").exit_code == 0
    assert ready.heads() == before


def test_a_branch_that_is_not_pushed_is_pushed_first(ready: Scratch, forge: Path) -> None:
    old = ready.id("feat/demo-1")
    ready.git("switch", "--quiet", "feat/demo-1")
    ready.git("commit", "--quiet", "--amend", "--message", "Part 1")
    ready.git("switch", "--quiet", "main")
    amended = ready.id("feat/demo-1")
    said = ready.run("land", "demo/1")
    lease = f"--force-with-lease=refs/heads/feat/demo-1:{old}"
    assert f"$ git push {lease} origin feat/demo-1\n$ gh pr checks" in said.text
    assert ready.run("land", "demo/1", "--execute").exit_code == 0
    assert calls(forge) == [VIEW, *on_forge(amended)]
    assert ready.git("log", "-1", "--format=%s", "origin/main") == "The demo: Part 1 (1/3)"


def test_checks_that_fail_keep_it_from_being_merged(ready: Scratch, forge: Path) -> None:
    ready.change_manifest("pr = 51", "pr = 77")
    said = ready.run("land", "demo/1", "--execute")
    assert said.exit_code == 1
    assert said.text == "gh pr checks 77 ended with 1; nothing after it ran"
    assert calls(forge) == [
        ["pr", "view", "77", *VIEW[3:]],
        ["pr", "checks", "77", "--watch"],
    ]


@pytest.mark.parametrize(
    ("pr", "why"),
    [
        ("pr = 66", "the pull request 66 is closed: nothing was merged"),
        ("pr = 67", "the pull request 67 is against 'feat/demo-0', and not against 'main'"),
        ("", "feat/demo-1 has no pull request: nothing was merged"),
    ],
)
def test_a_pull_request_that_cannot_be_merged_is_refused(
    ready: Scratch, forge: Path, pr: str, why: str
) -> None:
    ready.change_manifest("pr = 51", pr)
    said = ready.run("land", "demo/1", "--execute")
    assert said.exit_code == 1
    assert said.text.startswith(why)
    assert said.text.endswith("nothing was merged")
    assert len(calls(forge)) == 1


def elsewhere(ready: Scratch, tmp_path: Path, branch: str) -> Scratch:
    """Return another clone, with a branch checked out."""
    ready.git("clone", "--quiet", "--branch", branch, str(tmp_path / "origin"), str(tmp_path / "b"))
    return Scratch(tmp_path / "b")


@pytest.mark.parametrize("branch", ["main", "feat/demo-1"])
def test_what_moved_on_the_forge_since_the_last_fetch_is_not_landed(
    ready: Scratch, forge: Path, tmp_path: Path, branch: str
) -> None:
    other = elsewhere(ready, tmp_path, branch)
    other.commit("Another person", {"src/part0.sh": "answer0=9\n"})
    other.git("push", "--quiet", "origin", branch)
    there = other.id("HEAD")[:12]
    said = ready.run("land", "demo/1", "--execute")
    assert said.exit_code == 1
    assert there in said.text
    assert said.text.endswith("Nothing was merged")
    assert calls(forge) == []


@pytest.mark.usefixtures("forge")
def test_what_was_merged_in_between_is_said(ready: Scratch, tmp_path: Path) -> None:
    """Between the last look and the merge: that cannot be prevented."""
    other = elsewhere(ready, tmp_path, "main")
    other.commit("Another person", {"src/other.sh": "other=1\n"})
    gh = tmp_path / "bin/gh"
    push = f"if 'checks' in sys.argv: git('-C', {str(other.root)!r}, 'push', '--quiet')\nsys.exit"
    write_executable(gh, gh.read_text(encoding="utf-8").replace("sys.exit", push))
    said = ready.run("land", "demo/1", "--execute")
    assert said.exit_code == 1
    assert "which was verified; they differ in src/other.sh" in said.text


def test_a_remote_that_is_gone_is_named(ready: Scratch, forge: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "origin")
    said = ready.run("land", "demo/1", "--execute")
    assert said.text.startswith(f"the remote origin ({tmp_path / 'origin'}) does not answer: ")
    assert calls(forge) == []


def test_without_gh_nothing_is_done(ready: Scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [one for one in os.environ["PATH"].split(os.pathsep) if not Path(one, "gh").exists()]
    monkeypatch.setenv("PATH", os.pathsep.join(names))
    before = ready.heads()
    said = ready.run("land", "demo/1", "--execute")
    assert said.exit_code == 1
    assert said.text == "gh is not at hand, so nothing was done"
    assert ready.heads() == before
    assert ready.repository.refs("refs/stack/") == {}


def test_a_forge_that_merges_nothing_says_what_does(ready: Scratch, forge: Path) -> None:
    said = ready.run("land", "demo/1", "--forge", "bare")
    assert said.exit_code == 0
    assert "$ " not in said.text
    said = ready.run("land", "demo/1", "--forge", "bare", "--execute")
    assert (said.exit_code, said.text) == (1, "the forge 'bare' merges nothing")
    assert said.hint == ("Land here: nox -s stack -- land demo/1 --local --execute",)
    assert calls(forge) == []
