"""What a run of the gates depends on, asked of the repository and of this machine."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from milestones import settings
from milestones.errors import StackError
from milestones.git import Git
from milestones.manifest import Exclusion
from milestones.records import Keys

__all__ = ["all_definitions", "definitions", "installed", "keys", "locks", "python_of", "scrubbed"]

# Whose versions are worth recording: those that decide over a gate.
_TOOLS = (
    "build",
    "hatchling",
    "hypothesis",
    "mypy",
    "nox",
    "numpy",
    "pytest",
    "ruff",
    "sphinx",
    "sybil",
    "twine",
    "uv",
)

# Settings of a shell that reach into another environment, or into what a gate means.
_LEAKS = re.compile(
    r"(PYTHON|PYTEST|PYENV_VERSION|NOX|HYPOTHESIS|COVERAGE|MYPY|RUFF|CONDA|VIRTUAL_ENV"
    r"|UV_PROJECT|GIT_)"
)


def definitions(git: Git, tree: str) -> str:
    """Return the SHA-256 of what defines the gates in a tree: names, modes and contents."""
    return _hash_of(git, tree, settings.current().definitions)


def all_definitions(git: Git, tree: str) -> frozenset[str]:
    """Return what a record of a tree may have as its definitions: older ones hashed less."""
    former = settings.current().former_definitions
    return frozenset([definitions(git, tree), *(_hash_of(git, tree, paths) for paths in former)])


def locks(git: Git, tree: str) -> str:
    """Return the SHA-256 of the lock files in a tree."""
    return _hash_of(git, tree, settings.current().locks)


def keys(git: Git, tree: str, exclusions: Iterable[Exclusion] = ()) -> Keys:
    """Return everything that running the gates of a tree, here and now, depends on."""
    return Keys(
        tree=tree,
        definitions=definitions(git, tree),
        locks=locks(git, tree),
        interpreters=_interpreters(git.root, settings.current()),
        tools=_tools(),
        os=_system(),
        excluded=tuple(one.test for one in exclusions),
    )


def scrubbed(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return an environment as that of a fresh shell, without what would leak into a gate.

    An active virtual environment leaves the path, and variables that steer Python, pytest,
    nox or git are gone. What says how to reach a network stays.
    """
    leaks = settings.current().scrub
    kept = {
        name: value
        for name, value in environ.items()
        if not (_LEAKS.match(name) or name.startswith(leaks))
    }
    path = environ.get("PATH", "").split(os.pathsep)
    kept["PATH"] = os.pathsep.join(
        one for one in path if not (Path(one).parent / "pyvenv.cfg").exists()
    )
    return kept


def installed(worktree: Path) -> dict[str, str]:
    """Return the tools that the environments of a worktree hold, each with its versions."""
    versions: dict[str, set[str]] = {}
    places = (
        f"{env}/{lib}" for env in settings.current().environments for lib in ("lib/python3*", "Lib")
    )
    for path in (one for place in places for one in worktree.glob(f"{place}/site-packages/*")):
        name, _, version = path.name.removesuffix(".dist-info").partition("-")
        if path.suffix == ".dist-info" and name.lower() in _TOOLS:
            versions.setdefault(name.lower(), set()).add(version)
    return {name: ", ".join(sorted(found)) for name, found in sorted(versions.items())}


def python_of(worktree: Path, gate: str) -> str:
    """Return the version of the Python that a gate ran on; empty if it made no environment."""
    config = worktree / ".nox" / gate / "pyvenv.cfg"
    text = config.read_text(encoding="utf-8") if config.exists() else ""
    found = re.search(r"^version(?:_info)? *= *(\d+\.\d+\.\d+)", text, re.MULTILINE)
    return found[1] if found else ""


def _hash_of(git: Git, tree: str, paths: tuple[str, ...]) -> str:
    chosen = settings.current()
    every = (
        *chosen.definitions,
        *chosen.locks,
        *(p for row in chosen.former_definitions for p in row),
    )
    wanted = tuple(path.rstrip("/") for path in paths)
    # Git is asked once for all that is hashed of a tree.
    lines = [
        line
        for line in git.listing(tree, tuple(dict.fromkeys(every)))
        if _is_below(line.partition("\t")[2].removeprefix('"'), wanted)
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _is_below(name: str, paths: tuple[str, ...]) -> bool:
    return any(path in ("", ".") or f"{name}/".startswith(f"{path}/") for path in paths)


@functools.cache
def _interpreters(root: Path, chosen: settings.Settings) -> dict[str, str]:
    """Return the full version of each supported Python at hand: gates choose among these."""
    if chosen.interpreters:
        command = [sys.executable if one == "python" else one for one in chosen.interpreters]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        try:
            return {str(key): str(value) for key, value in json.loads(done.stdout).items()}
        except (ValueError, AttributeError) as error:
            raise StackError(
                f"{shlex.join(command)} printed no JSON object of versions, as "
                f"tool.milestones.interpreters needs: {done.stdout[:80]!r} {done.stderr[-200:]}"
            ) from error
    found = (shutil.which(f"python{version}") for version in chosen.pythons)
    code = "import platform; print(platform.python_version())"
    asked = (_ask(path, "-I", "-c", code) for path in found if path is not None)
    return {".".join(version.split(".")[:2]): version for version in asked if version}


@functools.cache
def _ask(*command: str) -> str:
    """Return what a command says; nothing if it does not run, as the shim of a manager."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


@functools.cache
def _tools() -> dict[str, str]:
    """Return the versions of the tools that come from the machine and not from a lock file."""
    bash = _say("bash", "-c", 'printf %s "$BASH_VERSION"')
    return {"bash": bash, "git": _say("git", "version").removeprefix("git version ")}


def _say(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _system() -> str:
    """Name the operating system, and the series of its kernel: arenas ask much of that."""
    series = ".".join(platform.release().split(".")[:2])
    name = f"{platform.system()} {series} {platform.machine()}"
    if platform.system() == "Linux":
        try:
            return f"{name}, {platform.freedesktop_os_release()['PRETTY_NAME']}"
        except (OSError, KeyError):
            return name
    return name
