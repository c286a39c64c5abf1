"""The contributor's guide, followed to the letter in a scratch repository."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from .guide import Step, steps
from .scratch import ROOT, Scratch

GUIDE = ROOT.parents[1] / "docs/stack/README.md"

# What the session `stack` runs, this process does itself: to make its environment takes a network.
TOOL = ["nox", "-s", "stack", "--"]


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A remote with the small project, as it was before anybody began."""
    scratch = Scratch(tmp_path / "project")
    scratch.begin()
    scratch.git("clone", "--quiet", "--bare", str(scratch.root), str(tmp_path / "origin"))
    return tmp_path / "origin"


def test_what_is_not_run_is_little_and_says_why() -> None:
    _, left_out = steps(GUIDE)
    assert left_out == [
        "needs a network",
        "needs a forge",
        "only an example",
        "only an example",
        "needs a forge",
        "only after a conflict",
    ]


class Desk:
    """Where the guide is followed: a directory, and what each command has said."""

    def __init__(self, directory: Path, **environ: str) -> None:
        self.directory = directory
        self.environ = os.environ | environ
        self.said: dict[str, list[str]] = {}

    def follow(self, step: Step) -> None:
        if step.path:
            path = self.directory / step.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(step.text, encoding="utf-8")
        for command in step.commands:
            status, output = self.run(command)
            assert status == 0, f"{GUIDE}:{step.line}: {command}\n{output}"
            self.said.setdefault(command, []).append(output)

    def run(self, command: str) -> tuple[int, str]:
        words = shlex.split(command)
        if words[0] == "cd":
            self.directory /= words[1]
            return 0, ""
        if words[: len(TOOL)] == TOOL:
            done = Scratch(self.directory).run(*words[len(TOOL) :])
            return done.exit_code, done.text
        ran = subprocess.run(
            ["bash", "-c", command],
            cwd=self.directory,
            env=self.environ,
            capture_output=True,
            text=True,
            check=False,
        )
        return ran.returncode, ran.stdout + ran.stderr


def test_the_guide_works_as_it_is_written(origin: Path, tmp_path: Path) -> None:
    desk = Desk(tmp_path, KVPOOL_ORIGIN=str(origin))
    for step in steps(GUIDE)[0]:
        desk.follow(step)
    check_status(desk.said["nox -s stack -- status greeting"])
    pushes = desk.said["nox -s stack -- restack greeting --execute"][0]
    assert "git push --force-with-lease=refs/heads/feat/greeting-1-hello:" in pushes
    check_end(Scratch(desk.directory), origin)


def check_status(outputs: list[str]) -> None:
    """Check the state of both milestones each time that the guide looks at them."""
    states = [
        [line.split(title)[1].split()[0] for title in ("Say hello", "Say goodbye")]
        for output in outputs
        for line in [" ".join(output.split())]
    ]
    assert states == [
        ["draft", "planned"],
        ["ready", "planned"],
        ["stale", "stale"],
        ["merged", "merged"],
    ]


def check_end(clone: Scratch, origin: Path) -> None:
    """Check what is left at the end of the way."""
    assert set(clone.states().values()) == {"merged"}
    assert {one["evidence"]["text"] for one in clone.status().values()} == {"6/6"}
    assert list(clone.heads()) == ["refs/heads/main"]
    remote = Scratch(origin)
    assert remote.id("main") == clone.id("main")
    assert remote.id("refs/notes/gates") == clone.id("refs/notes/gates~1")  # one run more since
    subjects = remote.git("log", "--format=%s", "main").splitlines()
    assert subjects == [
        "Records of the greeting",
        "Greeting: Say goodbye (2/2)",
        "Greeting: Say hello (1/2)",
        "The project",
    ]
