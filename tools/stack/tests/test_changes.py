"""What the pages say of a milestone beyond its gates: all of it comes from git or the manifest."""

from __future__ import annotations

import pytest

from milestones.changes import kind_of, measure
from milestones.manifest import ManifestError, load_all

from .project import part, readme
from .records import record_of
from .scratch import Scratch
from .test_render import page, problems
from .test_status import prove


def refreshed(scratch: Scratch, name: str) -> str:
    said = scratch.run("render", "--refresh")
    assert said.exit_code == 0, said.text
    return page(scratch, name)


def test_files_public_names_and_dates_come_from_the_commits(scratch: Scratch) -> None:
    scratch.git("switch", "--quiet", "feat/demo-1")
    before = scratch.id("HEAD")
    scratch.commit("One", {"lib/a.py": '__all__ = ["old", "same"]\n', "lib/_b.py": "x = 1\n"})
    middle = scratch.id("HEAD")
    new = '__all__ = ["same", "young"]\n\n\ny = 1\n'
    scratch.git("rm", "--quiet", "lib/_b.py")
    tip = scratch.commit("Two\n\nPhase: 2", {"lib/a.py": new, "docs/ä b.md": "1\n2\n"})
    found = measure(scratch.repository, middle, tip)
    assert [(one.path, one.how, one.added, one.removed) for one in found.files] == [
        ("docs/ä b.md", "new", 2, 0),
        ("lib/_b.py", "gone", 0, 1),
        ("lib/a.py", "changed", 4, 1),
    ]
    assert found.names_added == ["lib/a.py: young"]
    assert found.names_removed == ["lib/a.py: old"]
    today = scratch.git("log", "-1", "--format=%cs")
    assert (found.begun, found.ended, found.commits, found.phases) == (
        today,
        today,
        1,
        {"2": today},
    )
    assert measure(scratch.repository, before, tip).commits == 2
    assert measure(scratch.repository, None, scratch.id("main")).total.files == 8


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("src/a.py", "code"),
        ("tests/room/test_a.py", "tests"),
        ("tools/x/tests/a.py", "tests"),
        ("docs/a.md", "docs"),
        ("README.md", "docs"),
        ("docs/stack/demo.toml", "stack"),
        ("noxfile.py", "gates"),
        ("scripts/gates/a.py", "gates"),
        ("scripts/gates.py", "code"),
        ("requirements/a.txt", "locks"),
    ],
)
def test_the_kind_of_a_file_is_told_by_its_place(path: str, kind: str) -> None:
    assert kind_of(path) == kind


def test_a_page_has_what_the_manifest_says_to_a_reviewer(scratch: Scratch) -> None:
    scratch.change_manifest(
        'scope = ["The part 2"]\n',
        'scope = ["The part 2"]\nestimate = "2 files, 3 lines"\nrisk = "None | few."\n'
        'focus = ["The answer"]\nlimitations = ["No part 4"]\ncriteria = ["It adds up"]\n'
        'labels = ["parts"]\n',
    )
    scratch.change_manifest(
        'trunk = "main"\n',
        'trunk = "main"\ncriteria = ["Three parts"]\nlimitations = ["Slow: wait"]\n',
    )
    text = refreshed(scratch, "demo/2.md")
    for expected in (
        "| blocks | [demo/3](../demo/3.md) |",
        "| labels | `parts` |",
        "Estimate: 2 files, 3 lines.\nIt is 3 files, +3 -0 lines.",
        "### Risk\n\nNone | few.",
        "### Where to look\n\n1. The answer",
        "### Known limitations\n\n- No part 4",
        "- [ ] It adds up",
        "| `src/part2.sh` | +1 | -0 | new, code |",
        "| `README.md` | +1 | -0 | docs |",
        "| docs | 1 | +1 | -0 |",
        "$ nox -s stack -- verify demo/2",
    ):
        assert expected in text, expected
    status = page(scratch, "STATUS.md")
    for expected in (
        "### Success\n\n- [ ] Three parts",
        "### Known problems\n\n- Slow: wait",
        "- [`demo.toml`](demo.toml): the manifest\n- [demo/1](demo/1.md): Part 1\n",
    ):
        assert expected in status, expected


def test_a_milestone_is_compared_with_the_one_below(scratch: Scratch) -> None:
    prove(scratch, 1)
    said = scratch.run("verify", "demo/2")
    assert said.exit_code == 0, said.text
    text = refreshed(scratch, "demo/2.md")
    _, _, section = text.partition("### Compared with demo/1")
    rows = {
        cells[1].strip(): (cells[2].strip(), cells[3].strip())
        for cells in (line.split("|") for line in section.splitlines() if line.startswith("|"))
    }
    assert rows["gates"] == ("6/6", "6/6")
    assert rows["tests passed, test"] == ("", "3")
    assert rows["seconds, lint"] == ("1.0", "0.1")
    assert rows["files changed"] == ("3", "3")
    assert rows["public names"] == ("+0 -0", "+0 -0")
    assert "Compared with" not in page(scratch, "demo/1.md")


def test_a_phase_is_done_when_a_commit_says_so(scratch: Scratch) -> None:
    phases = '\n[[milestone.phase]]\ntitle = "First"\nscope = ["a"]\n'
    phases += '\n[[milestone.phase]]\ntitle = "Second"\n'
    scratch.change_manifest('next = "The part 4."\n', f'next = "The part 4."\n{phases}')
    scratch.git("switch", "--quiet", "feat/demo-3")
    assert "| phase | 1 of 2: First |" in refreshed(scratch, "demo/3.md")
    scratch.git("commit", "--quiet", "--allow-empty", "--message", "Half\n\nPhase: 1")
    text = refreshed(scratch, "demo/3.md")
    today = scratch.git("log", "-1", "--format=%cs")
    assert "| phase | 2 of 2: Second |" in text
    assert f"- [x] 1. First ({today})\n  - a\n- [ ] 2. Second\n" in text


def test_conflicts_of_a_restack_are_told_with_what_became_of_them(scratch: Scratch) -> None:
    """As git tells it from the branches before and after; it need not be written down."""
    scratch.git("switch", "--quiet", "feat/demo-1")
    scratch.write(part(1, answer=11))
    scratch.write({"README.md": "# Another\n\n`src/part0.sh`\n`src/part1.sh` changed\n"})
    scratch.git("commit", "--quiet", "--all", "--amend", "--no-edit")
    assert scratch.run("restack", "demo", "--execute").exit_code == 1
    scratch.write(readme(2))
    scratch.git("add", "README.md")
    scratch.git("rebase", "--continue")
    assert not scratch.repository.rebase_in_progress()
    scratch.git("switch", "--quiet", "feat/demo-1")
    assert scratch.run("restack", "demo", "--execute").exit_code == 0
    text = refreshed(scratch, "demo/2.md")
    assert "### Conflicts of the last restack" in text
    assert "| `README.md` | Name part 2 | as the commit had it |" in text
    assert "Conflicts" not in page(scratch, "demo/1.md")


def test_changes_cannot_be_invented(scratch: Scratch) -> None:
    prove(scratch, 1)
    scratch.squash("feat/demo-1", "demo/1")
    refreshed(scratch, "demo/1.md")
    scratch.commit("Pages")
    assert problems(scratch) == []
    path = scratch.root / "docs/stack/records/state.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"added": 1', '"added": 7'), encoding="utf-8")
    scratch.run("render")
    (problem,) = problems(scratch)
    assert problem.endswith(f"its changes are not those of {scratch.id('main~1')[:12]}")


def test_the_timeline_tells_what_is_to_be_done(scratch: Scratch) -> None:
    prove(scratch, 1)
    scratch.squash("feat/demo-1", "demo/1")
    text = refreshed(scratch, "STATUS.md")
    day = scratch.git("log", "-1", "--format=%cs")
    assert f"| 1/3 | {day} | {day} | 2026-01-02 | {day} |  |" in text
    begun = scratch.git("log", "-1", "--format=%cs", "feat/demo-2")
    assert f"| 2/3 | {begun} | {begun} |  |  | restack demo |" in text


def test_the_status_page_ends_with_every_command_of_the_tool(scratch: Scratch) -> None:
    text = refreshed(scratch, "STATUS.md")
    _, _, rows = text.partition("## Quick reference")
    named = {row.split("`")[1] for row in rows.splitlines() if row.startswith("| `")}
    assert {"nox -s stack -- status", "nox -s stack -- pause", "nox -s stack -- submit"} <= named
    assert "| `nox -s stack -- up` | Check out the branch that is based on the one" in rows
    assert problems(scratch) == []


def test_a_milestone_rests_and_goes_on_by_commands(scratch: Scratch) -> None:
    scratch.git("switch", "--quiet", "feat/demo-2")
    manifest = scratch.root / "docs/stack/demo.toml"
    before = manifest.read_text(encoding="utf-8")
    said = scratch.run("pause", "No network here", "--until", "the forge is back")
    assert said.text == "demo/2 is paused until the forge is back: No network here\n"
    why = scratch.status()["demo/2"]["why"]
    assert why == "paused: No network here (until the forge is back)"
    assert scratch.run("resume", "demo/2").exit_code == 0
    assert manifest.read_text(encoding="utf-8") == before
    assert scratch.run("resume", "demo/2").text == "demo/2 is not paused"


@pytest.mark.parametrize("why", ["", "two\nlines"])
def test_a_pause_without_a_reason_changes_nothing(scratch: Scratch, why: str) -> None:
    before = (scratch.root / "docs/stack/demo.toml").read_bytes()
    assert scratch.run("pause", why, "demo/2", "--until", "tomorrow").exit_code == 1
    assert (scratch.root / "docs/stack/demo.toml").read_bytes() == before
    assert scratch.run("pause", "why", "demo/9").text.startswith("there is no milestone 'demo/9'")


def test_nothing_is_waited_for_without_a_pause(scratch: Scratch) -> None:
    scratch.change_manifest('next = "The part 4."\n', 'next = "The part 4."\nuntil = "then"\n')
    with pytest.raises(ManifestError, match=r"milestone\[3\]\.until: nothing is paused"):
        load_all(scratch.root)


def test_a_record_of_old_has_no_files(scratch: Scratch) -> None:
    record = record_of(scratch.repository, "feat/demo-1")
    assert record.files is None
    prove(scratch, 1)
    said = scratch.run("logs", "demo/1")
    assert said.text == "demo/1 has no record that files were kept with"
