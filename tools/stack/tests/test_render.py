"""Pages come from records; what is typed in by hand is found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from milestones.evidence import Store
from milestones.records import GATES

from .project import manifest
from .records import record, record_of, result
from .scratch import Make, Scratch
from .test_status import prove


@pytest.fixture
def rendered(make: Make) -> Scratch:
    """The first milestone is merged and proved, the second proved; the pages are committed."""
    return make(with_pages)


def with_pages(scratch: Scratch) -> None:
    prove(scratch, 1, 2)
    scratch.squash("feat/demo-1", "demo/1")
    assert scratch.run("render", "--refresh").exit_code == 0
    scratch.commit("Pages")


def page(scratch: Scratch, name: str) -> str:
    return (scratch.root / "docs/stack" / name).read_text(encoding="utf-8")


def change(scratch: Scratch, name: str, old: str, new: str) -> None:
    text = page(scratch, name)
    assert old in text
    scratch.write({f"docs/stack/{name}": text.replace(old, new)})


def problems(scratch: Scratch) -> list[str]:
    said = scratch.run("render", "--check")
    return said.text.splitlines() if said.exit_code else []


def test_a_page_for_the_status_and_for_each_milestone(rendered: Scratch) -> None:
    files = rendered.repository.lines("ls-files", "docs/stack")
    assert files == [
        "docs/stack/STATUS.md",
        "docs/stack/demo.toml",
        "docs/stack/demo/1.md",
        "docs/stack/demo/2.md",
        "docs/stack/demo/3.md",
        "docs/stack/records/demo/1.json",
        "docs/stack/records/demo/2.json",
        "docs/stack/records/state.json",
        "docs/stack/schema.json",
    ]
    assert problems(rendered) == []


def test_the_status_page_has_states_and_figures_of_the_records(rendered: Scratch) -> None:
    rows = [line for line in page(rendered, "STATUS.md").splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows[2:5]]
    assert [cell[:4] for cell in cells] == [
        ["1/3", "[Part 1](demo/1.md)", "merged", "[6/6](records/demo/1.json)"],
        [
            "2/3",
            "[Part 2](demo/2.md)",
            "stale: demo/1 has moved from under it",
            "[6/6](records/demo/2.json)",
        ],
        ["3/3", "[Part 3](demo/3.md)", "draft: never verified", "no record"],
    ]
    assert cells[0][4] == f"`{rendered.id('main~1')[:12]}`"


def test_the_page_of_a_milestone_has_all_that_a_reviewer_needs(rendered: Scratch) -> None:
    text = page(rendered, "demo/2.md")
    headings = [line for line in text.splitlines() if line.startswith(("# ", "## "))]
    assert headings == [
        "# demo/2: Part 2",
        "## Verification",
        "## Rebase plan",
        "## Merge checklist",
        "## Patch guide",
        "## Reviewer note",
        "## Pull request",
    ]
    fork = rendered.id("feat/demo-2~2")
    for part in (
        "| `min_python` | passed | 1.0 | 3.11.7 |  |  |  |",
        f"| tree | `{rendered.repository.tree('feat/demo-2')}` |",
        f"It left demo/1 at `{fork}`;",
        f"`git rebase --onto main {fork[:12]} feat/demo-2 --update-refs`",
        "- [x] the six gates passed on exactly its tree\n- [ ] what it needs is merged or ready",
        "`git diff main...feat/demo-2`",
        "The demo: Part 2 (2/3)\n\nMilestone 2/3 of [The demo](docs/stack/STATUS.md).\n",
        "Needs: demo/1. Next: The part 3.\nGates: 6/6.\n",
        "Part of #7\n\nMilestone: demo/2\n```",
    ):
        assert part in text, part
    assert "Closes #7" in page(rendered, "demo/3.md")


def test_a_gate_that_failed_is_shown_and_explained(rendered: Scratch) -> None:
    some = [result(gate, passed=gate != "docs") for gate in GATES[:-1]]
    record = record_of(rendered.repository, "main~1", gates=some, exit_code=1, started="9")
    Store(rendered.repository).add(record)
    rendered.change_manifest("id = 1", 'id = 1\nexplanation = "A | page came later."')
    assert rendered.run("render", "--refresh").exit_code == 0
    text = page(rendered, "demo/1.md")
    assert (
        "| `docs` | **failed** | 1.0 | 3.11.7 |  |  |  |\n"
        "| `min_python` | did not run |  |  |  |  |  |" in text
    )
    assert "Explanation: A | page came later." in text
    assert "merged: fails alone: docs" in page(rendered, "STATUS.md")
    assert "- [ ] the six gates passed on exactly its tree" in text


def test_what_people_wrote_is_kept(rendered: Scratch) -> None:
    sentence = "Write below how each of these is done, file by file; this text is not replaced."
    change(rendered, "demo/3.md", sentence, "### Step 1\n\nOpen the file.")
    rendered.run("verify", "demo/3")
    assert problems(rendered) == []
    rendered.run("render", "--refresh")
    text = page(rendered, "demo/3.md")
    assert "### Step 1\n\nOpen the file.\n" in text
    assert "| `test` | passed | 0.1 | 3.13.0 | 4 passed, 0 deselected, 0 failed |" in text


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("STATUS.md", "never verified", "nearly done"),
        ("STATUS.md", "[6/6]", "[5/6]"),
        ("demo/1.md", "| `test` | passed | 1.0 |", "| `test` | passed | 0.5 |"),
        ("schema.json", "In order.", "In any order."),
    ],
)
def test_what_is_typed_in_by_hand_is_found_and_goes(
    rendered: Scratch, name: str, old: str, new: str
) -> None:
    before = page(rendered, name)
    change(rendered, name, old, new)
    assert problems(rendered) == [f"docs/stack/{name} is not what its records say"]
    assert page(rendered, name) != before  # the check writes nothing
    assert rendered.run("render").text == f"wrote docs/stack/{name}\n"
    assert page(rendered, name) == before
    assert problems(rendered) == []


def test_a_manifest_that_changed_shows(rendered: Scratch) -> None:
    rendered.change_manifest('title = "Part 3"', 'title = "The last"')
    assert problems(rendered) == [
        "docs/stack/STATUS.md is not what its records say",
        "docs/stack/demo/3.md is not what its records say",
    ]


def test_a_missing_page_and_one_too_many_are_found(rendered: Scratch) -> None:
    (rendered.root / "docs/stack/demo/2.md").unlink()
    shutil.copy(rendered.root / "docs/stack/demo/3.md", rendered.root / "docs/stack/demo/4.md")
    shutil.copytree(
        rendered.root / "docs/stack/records/demo", rendered.root / "docs/stack/records/b"
    )
    found = problems(rendered)
    assert "docs/stack/demo/2.md is missing" in found
    assert "docs/stack/demo/4.md: demo/4 is not a milestone" in found
    assert "docs/stack/records/b/1.json: b/1 is not a milestone" in found


def test_marks_that_were_broken_name_the_page(rendered: Scratch) -> None:
    before = page(rendered, "STATUS.md")
    change(rendered, "STATUS.md", "<!-- /stack:stacks -->", "")
    change(rendered, "demo/3.md", "never verified", "nearly done")
    after = page(rendered, "demo/3.md")
    for arguments in (("render",), ("render", "--check")):
        said = rendered.run(*arguments)
        assert said.exit_code == 1
        assert said.text.endswith("docs/stack/STATUS.md: <!-- stack:stacks --> does not end")
    assert page(rendered, "demo/3.md") == after  # nothing was written
    assert page(rendered, "STATUS.md") != before


def test_an_edited_record_is_found(rendered: Scratch) -> None:
    change(rendered, "records/demo/1.json", '"seconds": 60.5', '"seconds": 6.5')
    found = problems(rendered)
    assert "docs/stack/records/demo/1.json: changed after it was written" in "\n".join(found)
    assert "docs/stack/STATUS.md is not what its records say" in found


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("tree", "main^{tree}", "is not the tree of"),
        ("commit", "feat/demo-3", "is not in the history of HEAD"),
    ],
)
def test_facts_that_history_contradicts_are_found(
    rendered: Scratch, key: str, value: str, problem: str
) -> None:
    state = json.loads(page(rendered, "records/state.json"))
    fact = state["facts"]["demo/1"]
    fact[key] = rendered.id(value)
    if key == "commit":
        fact["tree"] = rendered.repository.tree(value)
    rendered.write({"docs/stack/records/state.json": json.dumps(state)})
    assert any(problem in line for line in problems(rendered))


def test_a_state_file_that_is_none_is_an_error(rendered: Scratch) -> None:
    change(rendered, "records/state.json", '"format": 1', '"format": 2')
    assert problems(rendered)[0].startswith("docs/stack/records/state.json: ")


def test_pages_can_be_checked_without_the_branches_and_notes(
    rendered: Scratch, tmp_path: Path
) -> None:
    """As in continuous integration, which fetches all of the history, and in an sdist."""
    rendered.git("clone", "--quiet", str(rendered.root), str(tmp_path / "clone"))
    clone = Scratch(tmp_path / "clone")
    said = clone.run("render", "--check")
    assert said.exit_code == 0, said.text
    assert said.text.endswith("3 facts agree with history\n")
    shutil.rmtree(clone.root / ".git")
    assert clone.run("render", "--check").exit_code == 0
    assert clone.run("render", "--refresh").text.endswith("so there is nothing to ask")


@pytest.mark.parametrize(
    "command", [("status",), ("render", "--check"), ("render", "--refresh")], ids=" ".join
)
def test_a_shallow_clone_is_refused(
    rendered: Scratch, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """There, what was merged before its beginning looks as if it had never been."""
    source = f"file://{rendered.root}"
    rendered.git("clone", "--quiet", "--depth", "1", source, str(tmp_path / "clone"))
    clone = Scratch(tmp_path / "clone")
    said = clone.run(*command)
    assert said.exit_code == 1
    assert "is a shallow clone" in said.text
    assert said.hint == ("git fetch --unshallow",)
    assert clone.git("status", "--porcelain") == ""


def test_a_fact_and_a_record_of_nothing_are_found(rendered: Scratch) -> None:
    state = rendered.root / "docs/stack/records/state.json"
    facts = json.loads(state.read_text(encoding="utf-8"))
    facts["facts"]["demo/3"] |= {"commit": "1" * 40, "tree": "2" * 40, "merged": True}
    state.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    invented = record(milestone="demo/3", commit="1" * 40, tree="2" * 40)
    Store(rendered.repository).export(invented)
    rendered.run("render")
    said = rendered.run("render", "--check")
    assert said.exit_code == 1
    assert "state.json: demo/3: the commit 111111111111 is not here" in said.text
    assert "demo/3.json: its commit 111111111111 is not here" in said.text


def test_pages_can_be_checked_in_an_old_commit(rendered: Scratch, tmp_path: Path) -> None:
    old = rendered.id("HEAD")
    rendered.git("branch", "--quiet", "-D", "feat/demo-2", "feat/demo-3")
    rendered.commit("More\n\nMilestone: demo/2")
    rendered.run("render", "--refresh")
    rendered.commit("Pages")
    rendered.git("worktree", "add", "--quiet", "--detach", str(tmp_path / "old"), old)
    assert Scratch(tmp_path / "old").run("render", "--check").exit_code == 0


def test_without_records_every_page_is_there(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path / "new")
    scratch.begin()
    scratch.write({"docs/stack/demo.toml": manifest(2)})
    assert scratch.run("render").text.splitlines() == [
        "wrote docs/stack/schema.json",
        "wrote docs/stack/STATUS.md",
        "wrote docs/stack/demo/1.md",
        "wrote docs/stack/demo/2.md",
    ]
    assert "The gates have not run on it." in page(scratch, "demo/1.md")
    assert problems(scratch) == []
