"""A stack becomes pull requests, each against the one below it."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from milestones.forge import web_address

from .fake_gh import ADDRESS, FakeGh, add_remote
from .scratch import Scratch
from .test_status import prove


@pytest.fixture
def origin(scratch: Scratch, tmp_path: Path) -> Scratch:
    """A bare remote that has main, and nothing of the stack."""
    add_remote(scratch, tmp_path / "origin")
    return Scratch(tmp_path / "origin")


@pytest.fixture
def gh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGh:
    return FakeGh.install(tmp_path / "gh", monkeypatch)


@pytest.fixture
def no_gh(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [one for one in os.environ["PATH"].split(os.pathsep) if not Path(one, "gh").exists()]
    monkeypatch.setenv("PATH", os.pathsep.join(names))


def submitted(scratch: Scratch) -> None:
    said = scratch.run("submit", "demo", "--execute")
    assert said.exit_code == 0, said.text


BODY_OF_2 = f"""\
<!-- stack:request -->
Milestone 2/3 of [The demo]({ADDRESS}/blob/feat/demo-2/docs/stack/STATUS.md); more is on \
[the page of demo/2]({ADDRESS}/blob/feat/demo-2/docs/stack/demo/2.md).

* The part 2

Needs: demo/1. Next: The part 3.
Gates: no record.

The stack, in the order in which it is merged:

1. #51 Part 1
2. **#52 Part 2** (this one)
3. #53 Part 3

Part of #7
<!-- /stack:request -->

Milestone: demo/2"""


def test_each_milestone_gets_a_request_against_the_one_below(
    scratch: Scratch, origin: Scratch, gh: FakeGh
) -> None:
    prove(scratch, 1)
    before = scratch.heads()
    said = scratch.run("submit", "demo", "--execute")
    assert said.exit_code == 0, said.text
    assert said.text.endswith("demo/1 is #51\ndemo/2 is #52\ndemo/3 is #53\n")
    assert origin.heads() == scratch.heads() == before
    found = gh.requests()
    assert [(one["head"], one["baseRefName"]) for one in found] == [
        ("feat/demo-1", "main"),
        ("feat/demo-2", "feat/demo-1"),
        ("feat/demo-3", "feat/demo-2"),
    ]
    assert [one["title"] for one in found] == [
        "The demo: Part 1 (1/3)",
        "The demo: Part 2 (2/3)",
        "The demo: Part 3 (3/3)",
    ]
    assert [one["isDraft"] for one in found] == [False, True, True]
    assert found[1]["body"] == BODY_OF_2
    assert "Closes #7" in found[2]["body"]
    assert scratch.repository.head() == "refs/heads/main"
    assert scratch.repository.changes() == []


@pytest.mark.usefixtures("origin")
def test_a_second_submission_changes_nothing(scratch: Scratch, gh: FakeGh) -> None:
    submitted(scratch)
    gh.forget()
    assert scratch.run("submit", "demo").text == (
        "demo: the forge is up to date\nnothing was changed; to do it: --execute\n"
    )
    submitted(scratch)
    assert gh.changes() == []
    assert [call[1] for call in gh.calls()] == ["list"] * 6


def test_the_plan_pushes_nothing_and_only_asks(
    scratch: Scratch, origin: Scratch, gh: FakeGh
) -> None:
    said = scratch.run("submit", "demo")
    assert said.exit_code == 0, said.text
    assert said.text.startswith("$ git push --set-upstream origin feat/demo-1\n")
    assert said.text.count("\n$ gh pr create --head feat/demo-") == 3
    assert said.text.endswith("nothing was changed; to do it: --execute\n")
    assert list(origin.heads()) == ["refs/heads/main"]
    assert gh.changes() == []


@pytest.mark.usefixtures("no_gh")
def test_without_gh_the_commands_are_printed(scratch: Scratch, origin: Scratch) -> None:
    scratch.change_manifest("id = 2", 'id = 2\npr = 52\nlabels = ["slow"]')
    said = scratch.run("submit", "demo")
    assert said.exit_code == 0, said.text
    assert said.text.startswith("gh is not at hand, so no forge was asked what is there")
    assert "\n$ gh pr create --head feat/demo-1 --base main --title " in said.text
    assert "\n$ gh pr edit 52 --base feat/demo-1\n" in said.text
    assert "\n$ gh pr edit 52 --title 'The demo: Part 2 (2/3)' --body " in said.text
    assert "--add-label slow" in said.text
    assert "\n$ gh pr ready 52 --undo\n" in said.text
    refused = scratch.run("submit", "demo", "--execute")
    assert (refused.exit_code, refused.text) == (1, "gh is not at hand, so nothing was done")
    assert list(origin.heads()) == ["refs/heads/main"]


@pytest.mark.usefixtures("origin")
def test_what_people_wrote_stays(scratch: Scratch, gh: FakeGh) -> None:
    submitted(scratch)
    body = gh.requests()[1]["body"].replace(
        "<!-- stack", "Look at it closely.\r\n\r\n<!-- stack", 1
    )
    gh.change(52, body=body.replace("Part 3", "Part X"))
    submitted(scratch)
    assert gh.requests()[1]["body"] == f"Look at it closely.\n\n{BODY_OF_2}"


@pytest.mark.usefixtures("origin")
def test_base_title_labels_and_draft_follow(scratch: Scratch, gh: FakeGh) -> None:
    submitted(scratch)
    gh.change(52, baseRefName="main", title="Mine", labels=[{"name": "kept"}])
    scratch.change_manifest('title = "The demo"', 'title = "The demo"\nlabels = ["stack"]')
    scratch.change_manifest("id = 2", 'id = 2\nlabels = ["slow"]')
    prove(scratch, 2)
    gh.forget()
    submitted(scratch)
    second = gh.requests()[1]
    assert (second["baseRefName"], second["title"]) == ("feat/demo-1", "The demo: Part 2 (2/3)")
    assert [one["name"] for one in second["labels"]] == ["kept", "stack", "slow"]
    assert [one["name"] for one in gh.requests()[2]["labels"]] == ["stack"]
    assert second["isDraft"]  # it waits for the first
    assert gh.changes()[0] == ["pr", "edit", "52", "--base", "feat/demo-1"]
    prove(scratch, 1)
    submitted(scratch)
    assert [one["isDraft"] for one in gh.requests()] == [False, False, True]
    assert scratch.run("submit", "demo", "--execute", "--draft").exit_code == 0
    assert [one["isDraft"] for one in gh.requests()] == [True, True, True]
    assert scratch.run("submit", "demo", "--execute", "--ready").exit_code == 0
    assert [one["isDraft"] for one in gh.requests()] == [False, False, False]


def test_a_branch_that_moved_is_pushed_with_a_lease_after_bases(
    scratch: Scratch, origin: Scratch, gh: FakeGh
) -> None:
    submitted(scratch)
    old = scratch.id("feat/demo-3")
    gh.change(53, baseRefName="main")
    scratch.git("switch", "--quiet", "feat/demo-3")
    scratch.git("commit", "--quiet", "--amend", "--message", "Part 3 anew")
    said = scratch.run("submit")  # that of the branch that is checked out
    assert said.text.splitlines()[:2] == [
        "$ gh pr edit 53 --base feat/demo-2",
        f"$ git push --force-with-lease=refs/heads/feat/demo-3:{old} origin feat/demo-3",
    ]
    submitted(scratch)
    assert origin.id("feat/demo-3") == scratch.id("feat/demo-3") != old
    assert scratch.repository.head() == "refs/heads/feat/demo-3"


def test_a_push_of_somebody_else_is_refused(
    scratch: Scratch, origin: Scratch, gh: FakeGh, tmp_path: Path
) -> None:
    submitted(scratch)
    scratch.git(
        "clone", "--quiet", "--branch", "feat/demo-2", str(origin.root), str(tmp_path / "b")
    )
    other = Scratch(tmp_path / "b")
    theirs = other.commit("Another person", {"theirs.txt": ""})
    other.git("push", "--quiet")
    gh.forget()
    said = scratch.run("submit", "demo", "--execute")
    assert said.exit_code == 1
    assert said.text.startswith(f"origin/feat/demo-2 is at {theirs[:12]}, which was never on")
    assert gh.calls() == []
    assert origin.id("feat/demo-2") == theirs


@pytest.mark.usefixtures("origin")
def test_a_branch_that_does_not_sit_on_its_parent_is_refused(scratch: Scratch, gh: FakeGh) -> None:
    scratch.git("switch", "--quiet", "feat/demo-1")
    scratch.git("commit", "--quiet", "--amend", "--message", "Part 1")
    said = scratch.run("submit", "--execute")
    assert said.text == (
        "feat/demo-2 does not sit on what feat/demo-1 is now, and nothing was submitted"
    )
    assert said.hint == ("nox -s stack -- restack demo --execute",)
    assert gh.calls() == []


def test_what_is_closed_or_merged_is_refused_before_anything(
    scratch: Scratch, origin: Scratch, gh: FakeGh
) -> None:
    submitted(scratch)
    scratch.git("switch", "--quiet", "feat/demo-3")
    scratch.commit("More", {"more.txt": ""})
    scratch.git("switch", "--quiet", "main")
    scratch.change_manifest("id = 2", "id = 2\npr = 52")
    gh.change(53, state="MERGED")
    pushed = origin.heads()
    gh.forget()
    said = scratch.run("submit", "demo", "--execute")
    assert said.text == (
        "the pull request 53 of demo/3 is merged already, and nothing was submitted"
    )
    gh.change(52, state="CLOSED")
    said = scratch.run("submit", "demo", "--execute")
    assert said.text.startswith("the pull request 52 of demo/2 is closed")
    assert gh.changes() == []
    assert origin.heads() == pushed


@pytest.mark.usefixtures("origin")
def test_a_closed_request_that_nobody_named_gives_way_to_a_new_one(
    scratch: Scratch, gh: FakeGh
) -> None:
    submitted(scratch)
    gh.change(52, state="CLOSED")
    submitted(scratch)
    assert [one["number"] for one in gh.requests() if one["head"] == "feat/demo-2"] == [52, 54]
    assert "2. #54 Part 2\n" in gh.requests()[0]["body"]


@pytest.mark.usefixtures("origin")
def test_a_merge_of_other_commits_does_not_stand_in_the_way(scratch: Scratch, gh: FakeGh) -> None:
    """As after a revert of it, or of a branch that once had the same name."""
    submitted(scratch)
    gh.change(53, state="MERGED")
    scratch.git("switch", "--quiet", "feat/demo-3")
    scratch.git("commit", "--quiet", "--amend", "--message", "Part 3 anew")
    scratch.git("switch", "--quiet", "main")
    scratch.change_manifest("id = 3", "id = 3\npr = 53")
    said = scratch.run("submit", "demo", "--execute")
    assert said.text.startswith("the pull request 53 of demo/3 is merged already")
    assert said.hint[1] == "or remove `pr` from the manifest to get a new one"
    scratch.git("checkout", "--quiet", "docs/stack")
    submitted(scratch)
    assert [one["number"] for one in gh.requests() if one["head"] == "feat/demo-3"] == [53, 54]


@pytest.mark.usefixtures("origin")
def test_a_number_that_the_forge_does_not_know_is_refused(scratch: Scratch, gh: FakeGh) -> None:
    scratch.change_manifest("id = 2", "id = 2\npr = 99")
    said = scratch.run("submit", "demo", "--execute")
    assert said.exit_code == 1
    assert said.text.startswith("gh pr view 99 ended with 1: GraphQL: Could not resolve")
    assert gh.changes() == []


@pytest.mark.usefixtures("origin")
def test_a_failure_on_the_way_says_where_it_stands(scratch: Scratch, gh: FakeGh) -> None:
    gh.refuse({"pr create": "could not add label: 'slow' not found"})
    said = scratch.run("submit", "demo", "--execute")
    assert said.exit_code == 1
    assert said.text == (
        "gh pr create --head ended with 1: gh: could not add label: 'slow' not found\n"
        "What came before it is done; nothing after it ran"
    )
    gh.refuse({})
    submitted(scratch)
    assert len(gh.requests()) == 3


@pytest.mark.usefixtures("origin")
def test_an_answer_that_lacks_something_is_not_guessed(scratch: Scratch, gh: FakeGh) -> None:
    submitted(scratch)
    found = gh.requests()
    del found[0]["state"]
    gh.save(found)
    said = scratch.run("submit", "demo", "--execute")
    assert said.text == "gh pr list --head: the answer is not as expected: state Field required"
    assert "gh --version" in said.hint[0]


def test_a_branch_without_commits_of_its_own_waits(
    scratch: Scratch, origin: Scratch, gh: FakeGh
) -> None:
    scratch.git("switch", "--quiet", "feat/demo-3")
    scratch.git("reset", "--quiet", "--hard", "feat/demo-2")
    said = scratch.run("submit", "--execute")
    assert said.text.startswith("demo/3 has no commit of its own yet, so no pull request\n")
    assert [one["head"] for one in gh.requests()] == ["feat/demo-1", "feat/demo-2"]
    assert "refs/heads/feat/demo-3" in origin.heads()


@pytest.mark.usefixtures("origin", "gh")
def test_numbers_are_written_into_the_manifest(scratch: Scratch) -> None:
    path = scratch.root / "docs/stack/demo.toml"
    text = path.read_text(encoding="utf-8").replace("id = 2", "id = 2  # the second")
    path.write_text(text, encoding="utf-8")
    said = scratch.run("submit", "demo", "--execute", "--write")
    assert said.text.endswith("wrote docs/stack/demo.toml\n")
    assert scratch.status()["demo/2"]["pr"] == 52
    assert "id = 2  # the second" in path.read_text(encoding="utf-8")
    assert scratch.run("submit", "demo", "--execute", "--write").text == ""


@pytest.mark.usefixtures("no_gh")
def test_a_bare_remote_only_gets_the_branches(scratch: Scratch, origin: Scratch) -> None:
    said = scratch.run("submit", "demo", "--forge", "bare", "--execute")
    assert said.exit_code == 0, said.text
    assert [shlex.split(line) for line in said.text.splitlines()] == [
        ["$", "git", "push", "--set-upstream", "origin", f"feat/demo-{n}"] for n in (1, 2, 3)
    ]
    assert origin.heads() == scratch.heads()
    assert scratch.run("submit", "demo", "--forge", "bare", "--execute").text == ""


def test_a_forge_can_come_from_a_plugin(
    scratch: Scratch, origin: Scratch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installed distribution with an entry point, and its name in the settings."""
    site = tmp_path / "site"
    for path, text in {
        "milestones_lab.py": (
            "from milestones.bare import Bare\nfrom milestones.forge import hookimpl\n"
            "class Lab(Bare):\n    name = 'lab'\n"
            "    def open(self, wanted):\n        return [['echo', wanted.title]]\n"
            "@hookimpl\ndef milestones_forges():\n    return [Lab()]\n"
        ),
        "lab-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: lab\nVersion: 1\n",
        "lab-1.dist-info/entry_points.txt": "[milestones]\nlab = milestones_lab\n",
    }.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(site)
    scratch.write({"pyproject.toml": '[tool.milestones]\nforge = "lab"\n'})
    said = scratch.run("submit", "demo", "--execute")
    assert said.exit_code == 0, said.text
    assert said.text.endswith("$ echo 'The demo: Part 3 (3/3)'\n")
    assert origin.heads() == scratch.heads()


def test_a_forge_that_is_unknown_and_a_repository_without_a_remote(scratch: Scratch) -> None:
    said = scratch.run("submit", "demo", "--forge", "lab")
    assert said.text == "there is no forge 'lab'; there are bare, gh"
    assert scratch.run("submit", "demo").text == "there is no remote 'origin' to submit to"
    assert scratch.run("submit").text == "main is the branch of no milestone"
    said = scratch.run("submit", "demo", "--draft", "--ready")
    assert said.text == "either --draft or --ready, not both"


@pytest.mark.parametrize(
    ("url", "page"),
    [
        ("git@github.com:kvpool/kvpool.git", "https://github.com/kvpool/kvpool"),
        ("https://github.com/kvpool/kvpool", "https://github.com/kvpool/kvpool"),
        ("https://me:secret@example.org/a/b/c.git/", "https://example.org/a/b/c"),
        ("ssh://git@example.org:2222/a/b.git", "https://example.org/a/b"),
        ("/srv/git/kvpool.git", ""),
        ("../kvpool", ""),
        ("C:/kvpool", ""),
        ("file:///srv/kvpool.git", ""),
    ],
)
def test_the_page_of_a_repository(url: str, page: str) -> None:
    assert web_address(url) == page
