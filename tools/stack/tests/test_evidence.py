"""Which records count: those of exactly this tree, as they were written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from milestones.evidence import NOTES, Store, judge, page_of, usable
from milestones.records import GATES, Keys, Record, seal, to_line, to_page

from .records import fields, record_of, result
from .scratch import ROOT, Scratch


@pytest.fixture
def tip(scratch: Scratch) -> str:
    return scratch.id("feat/demo-1")


def put_note(scratch: Scratch, commit: str, text: str) -> None:
    scratch.git("notes", "--ref", NOTES, "add", "--force", "--message", text, commit)


def verdict(scratch: Scratch) -> str:
    found = Store(scratch.repository).read()
    return judge(found, "demo/1", scratch.repository.tree("feat/demo-1")).verdict


def faults(scratch: Scratch) -> tuple[str, ...]:
    tree = scratch.repository.tree("feat/demo-1")
    return judge(Store(scratch.repository).read(), "demo/1", tree).faults


def test_six_of_six_on_exactly_this_tree_count(scratch: Scratch, tip: str) -> None:
    assert verdict(scratch) == "none"
    Store(scratch.repository).add(record_of(scratch.repository, tip))
    assert verdict(scratch) == "green"
    assert faults(scratch) == ()


def test_a_note_holds_many_records_and_merges_by_lines(scratch: Scratch, tip: str) -> None:
    store = Store(scratch.repository)
    first = record_of(scratch.repository, tip)
    second = record_of(scratch.repository, tip, started="2026-02-01T00:00:00.000Z")
    for one in (first, second, first):
        store.add(one)
    text = scratch.git("notes", "--ref", NOTES, "show", tip)
    assert text.splitlines() == sorted([to_line(first), to_line(second)])

    scratch.git("update-ref", "refs/notes/theirs", NOTES)
    store.add(record_of(scratch.repository, tip, started="2026-03-01T00:00:00.000Z"))
    third = record_of(scratch.repository, tip, started="2026-04-01T00:00:00.000Z")
    lines = f"{text}\n{to_line(third)}\n"
    scratch.git("notes", "--ref", "theirs", "add", "--force", "--message", lines, tip)
    strategy = ("--strategy", "cat_sort_uniq")
    scratch.git("notes", "--ref", NOTES, "merge", *strategy, "refs/notes/theirs")
    assert judge(store.read(), "demo/1", first.tree).runs == 4


def test_records_are_kept_where_git_knows_nobody(
    scratch: Scratch, tip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("EMAIL", "")
    scratch.git("config", "user.useConfigOnly", "true")
    Store(scratch.repository).add(record_of(scratch.repository, tip))
    assert verdict(scratch) == "green"


def test_a_record_whose_text_was_edited_does_not_count(scratch: Scratch, tip: str) -> None:
    failed = [result(gate, passed=gate != "test") for gate in GATES]
    true = record_of(scratch.repository, tip, gates=failed, exit_code=1)
    put_note(scratch, tip, to_line(true))
    assert verdict(scratch) == "failed"
    forged = (
        to_line(true)
        .replace('"passed":false', '"passed":true')
        .replace('"exit_code":1', '"exit_code":0')
    )
    put_note(scratch, tip, forged)
    assert verdict(scratch) == "none"
    assert faults(scratch) == (
        f"the note of {tip[:12]}: changed after it was written: its digest is not that of its text",
    )


def test_a_record_that_names_another_tree_does_not_count(scratch: Scratch, tip: str) -> None:
    """Sealed anew, so that only what it says can speak against it."""
    other = scratch.repository.tree("feat/demo-2")
    true = record_of(scratch.repository, "feat/demo-2", milestone="demo/1")
    mine = record_of(scratch.repository, tip)
    for forged, reason in [
        (mine.model_copy(update={"tree": other}), f"names the tree {other[:12]}"),
        (mine.model_copy(update={"commit": true.commit}), f"is of {true.commit[:12]}"),
        (mine.model_copy(update={"definitions": "0" * 64}), "names gates or locks"),
        (mine.model_copy(update={"locks": "0" * 64}), "names gates or locks"),
    ]:
        put_note(scratch, tip, to_line(seal_again(forged)))
        assert verdict(scratch) in ("none", "other")
        assert reason in "".join(faults(scratch))


def seal_again(forged: Record) -> Record:
    return seal(**{name: getattr(forged, name) for name in fields()})


def test_a_record_is_stale_once_the_tree_has_changed(scratch: Scratch, tip: str) -> None:
    Store(scratch.repository).add(record_of(scratch.repository, tip))
    scratch.git("switch", "--quiet", "feat/demo-1")
    scratch.commit("Another thing", {"src/part1.sh": "answer1=01\n"})
    assert verdict(scratch) == "other"
    scratch.git("revert", "--no-edit", "HEAD")
    assert verdict(scratch) == "green"  # another commit, the same tree


def test_a_record_of_another_milestone_does_not_count(scratch: Scratch, tip: str) -> None:
    Store(scratch.repository).add(record_of(scratch.repository, tip, milestone="demo/2"))
    assert verdict(scratch) == "none"


def test_three_of_six_are_quick_and_not_green(scratch: Scratch, tip: str) -> None:
    three = [result(gate) for gate in ("lint", "format", "docs")]
    quick = record_of(scratch.repository, tip, scope="quick", gates=three)
    Store(scratch.repository).add(quick)
    found = judge(Store(scratch.repository).read(), "demo/1", quick.tree)
    assert found.verdict == "quick"
    assert found.text == "3/6 (quick)"


def test_the_newest_full_run_decides_and_older_ones_are_not_hidden(
    scratch: Scratch, tip: str
) -> None:
    store = Store(scratch.repository)
    failed = [result(gate, passed=gate != "test") for gate in GATES]
    day = "2026-01-0{}T00:00:00.000Z"
    store.add(record_of(scratch.repository, tip, gates=failed, exit_code=1, started=day.format(1)))
    assert verdict(scratch) == "failed"
    green = record_of(scratch.repository, tip, started=day.format(2))
    store.add(green)
    three = [result(gate) for gate in ("lint", "format", "docs")]
    store.add(record_of(scratch.repository, tip, scope="quick", gates=three, started=day.format(3)))
    found = judge(store.read(), "demo/1", green.tree)
    assert found.verdict == "green"
    assert found.text == "6/6 (1 of 2 runs failed)"


def test_an_exported_record_serves_a_clone_without_notes(scratch: Scratch, tip: str) -> None:
    store = Store(scratch.repository)
    true = record_of(scratch.repository, tip)
    store.export(true)
    assert verdict(scratch) == "green"
    assert judge(store.read(), "demo/1", true.tree).runs == 1
    store.add(true)
    assert judge(store.read(), "demo/1", true.tree).runs == 1  # one run, kept twice


@pytest.mark.parametrize(
    ("kept", "reason"),
    [(None, "changed after it was written"), (100, "malformed"), (0, "malformed")],
)
def test_an_exported_record_that_was_edited_does_not_count(
    scratch: Scratch, tip: str, kept: int | None, reason: str
) -> None:
    path = Store(scratch.repository).export(record_of(scratch.repository, tip))
    text = path.read_text(encoding="utf-8").replace('"exit_code": 0', '"exit_code": 1')
    path.write_text(text[:kept], encoding="utf-8")
    assert verdict(scratch) == "none"
    assert reason in faults(scratch)[0]
    assert faults(scratch)[0].startswith("docs/stack/records/demo/1.json: ")


def test_an_exported_record_in_the_file_of_another_does_not_count(
    scratch: Scratch, tip: str
) -> None:
    true = record_of(scratch.repository, tip, milestone="demo/2")
    path = scratch.root / page_of("demo/1")
    path.parent.mkdir(parents=True)
    path.write_text(to_page(true), encoding="utf-8")
    assert verdict(scratch) == "none"
    assert faults(scratch) == ("docs/stack/records/demo/1.json: is of demo/2",)


def test_a_record_is_used_again_only_if_every_key_is_equal(scratch: Scratch, tip: str) -> None:
    true = record_of(scratch.repository, tip)
    Store(scratch.repository).add(true)
    found = Store(scratch.repository).read()
    assert usable(found, "demo/1", true.keys, quick=False) == true
    assert usable(found, "demo/1", true.keys, quick=True) == true
    for name, value in {
        "tree": "0" * 40,
        "definitions": "0" * 64,
        "locks": "0" * 64,
        "interpreters": {"3.11": "3.11.8"},
        "tools": {"git": "2.40.0"},
        "os": "Darwin",
        "excluded": ("tests/part1.sh",),
    }.items():
        keys = Keys(**vars(true.keys) | {name: value})
        assert usable(found, "demo/1", keys, quick=False) is None, name


def test_a_quick_record_does_not_stand_for_a_full_run(scratch: Scratch, tip: str) -> None:
    three = [result(gate) for gate in ("lint", "format", "docs")]
    quick = record_of(scratch.repository, tip, scope="quick", gates=three)
    Store(scratch.repository).add(quick)
    found = Store(scratch.repository).read()
    assert usable(found, "demo/1", quick.keys, quick=True) == quick
    assert usable(found, "demo/1", quick.keys, quick=False) is None


def test_the_record_of_a_squash_is_that_of_the_branch(scratch: Scratch, tip: str) -> None:
    """A clone that never had the branch has a record whose commit it does not know."""
    true = record_of(scratch.repository, tip)
    lost = json.loads(to_line(true)) | {"commit": "f" * 40}
    del lost["digest"]
    gates = [result(gate) for gate in GATES]
    Store(scratch.repository).export(seal(**lost | {"gates": gates}))
    scratch.squash("feat/demo-1", "demo/1")
    found = Store(scratch.repository).read()
    assert judge(found, "demo/1", scratch.repository.tree("main")).verdict == "green"


ADD = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from milestones.evidence import Store
from milestones.git import Git
from milestones.records import parse
lines = sys.stdin.read().splitlines()
with ThreadPoolExecutor(len(lines)) as threads:
    list(threads.map(lambda line: Store(Git(Path.cwd())).add(parse(line)), lines))
"""


def test_records_that_are_saved_at_the_same_moment_are_all_kept(scratch: Scratch) -> None:
    """Sixteen at once: four processes of four threads each."""
    made = [
        record_of(scratch.repository, "feat/demo-1", milestone="demo/1", seconds=float(number))
        for number in range(1, 17)
    ]
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", ADD],
            cwd=scratch.root,
            env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
            stdin=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for number, writer in enumerate(writers):
        assert writer.stdin is not None
        writer.stdin.write("\n".join(to_line(one) for one in made[number::4]))
        writer.stdin.close()
    assert [writer.wait() for writer in writers] == [0] * 4
    kept = [one.record for one in Store(scratch.repository).read()]
    assert sorted(kept, key=lambda one: one.seconds if one else 0) == made
    assert list(scratch.repository.refs("refs/notes/")) == [NOTES]


def failed_record(scratch: Scratch, commit: str, **changed: str) -> Record:
    gates = [result(gate, passed=gate != "test") for gate in GATES]
    return record_of(scratch.repository, commit, gates=gates, exit_code=1, **changed)


@pytest.mark.parametrize("clock", ["2001-01-01T00:00:00Z", "2099-01-01T00:00:00Z"])
def test_the_run_that_was_added_last_decides_whatever_its_clock_said(
    scratch: Scratch, tip: str, clock: str
) -> None:
    store = Store(scratch.repository)
    store.add(record_of(scratch.repository, tip))
    store.add(failed_record(scratch, tip, started=clock))
    assert verdict(scratch) == "failed"
    store.add(record_of(scratch.repository, tip, started="2000-01-01T00:00:00Z"))
    assert verdict(scratch) == "green"


def test_of_two_commits_with_one_tree_the_descendant_has_the_newer_record(
    scratch: Scratch, tip: str
) -> None:
    scratch.git("switch", "--quiet", "feat/demo-1")
    scratch.commit("Nothing new")
    store = Store(scratch.repository)
    store.add(failed_record(scratch, "feat/demo-1"))
    store.add(record_of(scratch.repository, tip, started="2099-01-01T00:00:00Z"))
    assert verdict(scratch) == "failed"


def test_a_signed_copy_keeps_the_place_of_its_record(scratch: Scratch, tip: str) -> None:
    """The file that was exported long ago does not make its record older than the notes say."""
    store = Store(scratch.repository)
    store.add(failed_record(scratch, tip))
    last = record_of(scratch.repository, tip, started="2000-01-01T00:00:00Z")
    store.add(last)
    store.export(last)
    assert verdict(scratch) == "green"
    old = failed_record(scratch, tip, started="2099-01-01T00:00:00Z")
    store.export(old)  # of another clone: what the notes have not seen counts as older
    assert verdict(scratch) == "green"


def test_a_record_more_costs_at_most_one_question_to_git(
    scratch: Scratch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def questions() -> int:
        trace = tmp_path / f"trace-{len(list(tmp_path.glob('trace-*')))}"
        with monkeypatch.context() as patch:
            patch.setenv("GIT_TRACE2_EVENT", str(trace))
            scratch.status()
        return trace.read_text(encoding="utf-8").count('"event":"start"')

    store = Store(scratch.repository)
    for number in (1, 2):
        key = f"demo/{number}"
        store.add(record_of(scratch.repository, f"feat/demo-{number}", milestone=key))
    before = questions()
    store.add(record_of(scratch.repository, "feat/demo-3", milestone="demo/3"))
    for day in range(1, 6):
        started = f"2026-01-0{day}T00:00:00Z"
        store.add(record_of(scratch.repository, "feat/demo-1", started=started))
    assert questions() <= before + 1
