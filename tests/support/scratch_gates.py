"""A scratch project whose gates end as a test wants them to: real sessions of a real nox."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]

_HEAD = f"""
import sys
import nox
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from scripts.gates import runner

@nox.session(python=False)
def gates(session):
    runner.run_session(session, Path(__file__))
"""


def write_noxfile(directory: Path, failing: Mapping[str, str] | None = None) -> Path:
    """Write a noxfile with the six gates; `failing` gives the statement of some of them."""
    bodies = dict.fromkeys(["build", "test", "lint", "format", "docs", "min_python"], "pass")
    sessions = [
        f"@nox.session(name={name!r}, python=False)\ndef {name}_(session):\n    {body}\n"
        for name, body in (bodies | dict(failing or {})).items()
    ]
    noxfile = directory / "noxfile.py"
    noxfile.write_text("\n".join([_HEAD, *sessions]), encoding="utf-8")
    return noxfile


def write_executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def write_shim(path: Path) -> Path:
    """Write what pyenv puts on the path for a version that is not selected."""
    return write_executable(
        path, f"#!/bin/sh\necho 'pyenv: {path.name}: command not found' >&2\nexit 127\n"
    )


def write_ci_project(directory: Path, failing: Mapping[str, str] | None = None) -> Path:
    """Lay out what ci-local.sh needs, with an environment made that runs this Python."""
    directory.mkdir(parents=True)
    write_noxfile(directory, failing)
    (directory / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/ci-local.sh", directory / "scripts")
    (directory / "requirements").mkdir()
    (directory / "requirements/nox.txt").write_text("# no tools\n", encoding="utf-8")
    python = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n'
    write_executable(directory / ".venv-ci/bin/python", python)
    shutil.copy(directory / "requirements/nox.txt", directory / ".venv-ci/made-from.txt")
    return directory


def ci_local(
    project: Path, *words: str, cwd: Path | None = None, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run the project's ci-local.sh."""
    return subprocess.run(
        ["bash", str(project / "scripts/ci-local.sh"), *words],
        cwd=cwd or project,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        check=False,
    )
