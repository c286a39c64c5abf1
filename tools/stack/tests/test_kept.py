"""What gates have written is kept with the record, and is not taken for something else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from milestones import kept
from milestones.errors import StackError

from .scratch import ROOT, Scratch
from .test_verify import records


def test_the_log_and_the_junit_files_of_a_run_are_kept(scratch: Scratch, tmp_path: Path) -> None:
    scratch.run("verify", "demo/1")
    (record,) = records(scratch, "feat/demo-1")
    assert record.files is not None
    assert list(record.files) == ["bash.xml", "log", "sh.xml"]
    said = scratch.run("logs", "demo/1", "--to", str(tmp_path / "to"))
    assert said.exit_code == 0, said.text
    assert (tmp_path / "to/bash.xml").read_text(encoding="utf-8") == '<testsuite file="./x"/>\n'
    log = (tmp_path / "to/log").read_text(encoding="utf-8")
    assert log.startswith("=== gate build\n")
    assert scratch.run("logs", "demo/1").text == log
    scratch.run("render", "--refresh")
    text = (scratch.root / "docs/stack/demo/1.md").read_text(encoding="utf-8")
    assert "| kept with it | `bash.xml`, `log`, `sh.xml` |" in text


def test_what_was_kept_and_then_changed_is_refused(scratch: Scratch) -> None:
    scratch.run("verify", "demo/1")
    (record,) = records(scratch, "feat/demo-1")
    assert record.files is not None
    kept.keep(scratch.repository, record.digest, dict.fromkeys(record.files, b"all is well"))
    assert "is not what the record says" in scratch.run("logs", "demo/1").text
    scratch.git("update-ref", "-d", kept.KEPT)
    said = scratch.run("logs", "demo/1")
    assert said.text == f"what the run of record {record.digest[:12]} has written is not here"


def test_a_file_that_is_too_large_is_cut_or_left_out() -> None:
    name, log = kept.bounded("log", b"begin" + b"x" * 5_000_000 + b"end")
    assert name == "log"
    assert len(log) < 4_000_000
    assert log.startswith(b"begin")
    assert log.endswith(b"end")
    assert b"bytes are left out" in log
    assert kept.bounded("a.xml", b"x" * 4_000_001) == (
        "a.xml.left-out",
        b"a.xml has 4000001 bytes, more than the 4000000 that are kept\n",
    )
    assert kept.bounded("a.xml", b"x" * 4_000_000)[0] == "a.xml"


def test_only_the_newest_runs_are_kept(scratch: Scratch) -> None:
    names = [f"{number:064x}" for number in range(43)]
    for name in [*names, names[40]]:
        kept.keep(scratch.repository, name, {"log": name.encode()})
    assert scratch.repository.count(kept.KEPT) == 1  # no history, so that git collects the rest
    for name in (names[3], names[42], names[40]):
        digest = kept.digests({"log": name.encode()})
        assert kept.read(scratch.repository, name, digest) == {"log": name.encode()}
    with pytest.raises(StackError, match="is not here"):
        kept.read(scratch.repository, names[2], {})


def test_what_many_keep_at_once_is_all_there(scratch: Scratch) -> None:
    code = (
        "import sys; from pathlib import Path; from milestones import kept; "
        "from milestones.git import Git; "
        "kept.keep(Git(Path(sys.argv[1])), sys.argv[2], {'log': sys.argv[2].encode()})"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(scratch.root), f"{number:064x}"],
            env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        )
        for number in range(6)
    ]
    assert [one.wait() for one in started] == [0] * 6
    names = scratch.repository.lines("ls-tree", "--name-only", f"{kept.KEPT}:")
    assert len(names) == 7
