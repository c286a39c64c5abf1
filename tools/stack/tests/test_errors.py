"""What stands in the way is named, as it is called, with what to do about it."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest

from milestones.git import Git

from .scratch import ROOT, Scratch


@pytest.fixture
def amended(scratch: Scratch) -> Scratch:
    """The first milestone was amended, so that a restack has something to do."""
    scratch.git("switch", "--quiet", "feat/demo-1")
    scratch.commit("More", {"src/more.sh": "more=1\n"})
    scratch.git("switch", "--quiet", "main")
    return scratch


def test_a_file_that_git_does_not_have_is_in_the_way(amended: Scratch) -> None:
    before = amended.heads()
    (amended.root / "src/more.sh").write_text("mine\n", encoding="utf-8")
    said = amended.run("restack", "--execute")
    assert said.exit_code == 1
    assert said.text == "files that git does not have are in the way: src/more.sh"
    assert amended.heads() == before
    (amended.root / "src/more.sh").rename(amended.root / "src/mine.sh")
    assert amended.run("restack", "--execute").exit_code == 0


HOLD = """
import sys
from pathlib import Path
from milestones.git import Git
with Git(Path.cwd()).alone():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_only_one_process_moves_branches(amended: Scratch) -> None:
    before = amended.heads()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD],
        cwd=amended.root,
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": "/usr/local/bin:/usr/bin:/bin"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        said = amended.run("restack", "--execute")
        assert said.exit_code == 1
        assert said.text.startswith(f"another process ({other.pid}) moves branches of ")
        assert amended.heads() == before
        other.communicate("")
    assert amended.run("restack", "--execute").exit_code == 0


def test_paths_that_are_not_ascii_can_be_pasted(scratch: Scratch) -> None:
    name = "src/größe mit leer.sh"
    scratch.git("switch", "--quiet", "feat/demo-1")
    scratch.commit("A name", {name: "a=1\n"})
    scratch.git("switch", "--quiet", "feat/demo-2")
    scratch.commit("The same name", {name: "a=2\n"})
    said = scratch.run("restack", "--execute")
    assert said.text.startswith("conflict at ")
    (add,) = [line for line in said.hint if line.startswith("  git add ")]
    assert shlex.split(add) == ["git", "add", name]
    scratch.write({name: "a=3\n"})
    subprocess.run(shlex.split(add), cwd=scratch.root, check=True)
    assert scratch.repository.changes() == [f"M  {name}"]


def test_a_manifest_that_is_not_utf_8_is_named(scratch: Scratch) -> None:
    path = scratch.root / "docs/stack/demo.toml"
    path.write_bytes(path.read_bytes().replace(b'"The demo"', b'"\xe9"'))
    said = scratch.run("status")
    assert said.exit_code == 1
    assert said.text.startswith("docs/stack/demo.toml:3: is not UTF-8: byte 0xe9")


def test_line_ends_are_kept(scratch: Scratch) -> None:
    path = scratch.root / "docs/stack/demo.toml"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert scratch.run("fork-points", "--write").exit_code == 0
    text = path.read_bytes()
    assert b"fork_point" in text
    assert text.count(b"\n") == text.count(b"\r\n")
    scratch.run("render", "--refresh")
    page = scratch.root / "docs/stack/demo/1.md"
    page.write_bytes(page.read_bytes().replace(b"\n", b"\r\n").replace(b"Part 1", b"Part X"))
    scratch.run("render")
    text = page.read_bytes()
    assert b"Part X" not in text
    assert text.count(b"\n") == text.count(b"\r\n")


def test_an_error_of_git_is_not_its_manual(scratch: Scratch) -> None:
    with pytest.raises(Exception, match="ended with") as caught:
        Git(scratch.root).run("range-diff", "--no-such-option")
    assert "usage" not in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3
