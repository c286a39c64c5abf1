"""Scratch repositories: real git, a real project, the real tool."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from milestones.cli import app
from milestones.errors import StackError
from milestones.git import Git

from . import project

ROOT = Path(__file__).parents[1]
COMMAND = get_command(app)  # made once; a runner of typer would make it anew for each call


def write_executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@dataclass(frozen=True)
class Said:
    """What a command of the tool said: its output, or the error that ended it."""

    exit_code: int
    text: str
    hint: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scratch:
    """A repository in a temporary directory."""

    root: Path

    @property
    def repository(self) -> Git:
        return Git(self.root)

    def git(self, *arguments: str) -> str:
        return self.repository.run(*arguments)

    def id(self, name: str) -> str:
        return self.git("rev-parse", name)

    def heads(self) -> dict[str, str]:
        return self.repository.refs("refs/heads/")

    def write(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")

    def commit(self, message: str, files: dict[str, str] | None = None) -> str:
        self.write(files or {})
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        return self.id("HEAD")

    def begin(self, parts: int = 0, stack: str = "demo") -> None:
        """Make the repository: the project and a manifest on main."""
        self.root.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch", "main")
        self.write(project.FILES)
        if parts:
            self.write({f"docs/stack/{stack}.toml": project.manifest(parts, stack)})
        self.commit("The project")

    def grow(self, number: int, files: dict[str, str] | None = None, stack: str = "demo") -> str:
        """Make the branch of a milestone on top of what is checked out, with two commits."""
        self.git("switch", "--quiet", "--create", f"feat/{stack}-{number}")
        self.commit(f"Name part {number}", project.readme(number))
        return self.commit(f"Part {number}", files or project.part(number))

    def squash(self, branch: str, key: str) -> str:
        """Merge a branch into main as a forge does: one commit, the branch is gone."""
        self.git("switch", "--quiet", "main")
        self.git("merge", "--quiet", "--squash", branch)
        self.git("commit", "--quiet", "--message", f"Squash\n\nMilestone: {key}")
        self.git("branch", "--quiet", "-D", branch)
        return self.id("HEAD")

    def run(self, *arguments: str, columns: int = 80) -> Said:
        """Run the tool in this process."""
        output = io.StringIO()
        with (
            chdir(self.root),
            redirect_stdout(output),
            redirect_stderr(output),
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setenv("COLUMNS", str(columns))
            try:
                COMMAND.main(arguments, prog_name="stack")
            except StackError as error:
                return Said(1, str(error), error.hint)
            except SystemExit as end:
                return Said(int(end.code or 0), output.getvalue())
        raise AssertionError("the command came back without an exit status")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the tool as a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "milestones", *arguments],
            cwd=self.root,
            env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def states(self) -> dict[str, str]:
        return {key: one["state"] for key, one in self.status().items()}

    def status(self) -> dict[str, dict[str, Any]]:
        """Return what ``status --json`` says of each milestone."""
        said = self.run("status", "--json")
        assert said.exit_code == 0, said.text
        stacks = json.loads(said.text)["stacks"]
        return {one["key"]: one for stack in stacks for one in stack["milestones"]}

    def change_manifest(self, old: str, new: str, stack: str = "demo") -> None:
        path = self.root / f"docs/stack/{stack}.toml"
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, (old, text.count(old))
        path.write_text(text.replace(old, new), encoding="utf-8")


Step = Callable[[Scratch], object]
Make = Callable[..., Scratch]


class Templates:
    """Repositories after steps that many tests begin with: each is made once, and then copied.

    Parameters
    ----------
    folder : Path
        Where they are kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[tuple[Step, ...], Path] = {}

    def copy(self, steps: tuple[Step, ...], to: Path) -> Scratch:
        """Copy the repository that some steps lead to; make it if this is the first time."""
        if steps not in self._made:
            kept = Scratch(Path(tempfile.mkdtemp(dir=self._folder)) / "repository")
            if steps[:-1]:
                self.copy(steps[:-1], kept.root)
            steps[-1](kept)
            self._made[steps] = kept.root
        return Scratch(Path(shutil.copytree(self._made[steps], to, symlinks=True)))
