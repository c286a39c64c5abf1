"""Find Python interpreters that really run.

A name on the path proves nothing: version managers put a shim there for every version that
they ever installed, and a shim of a version that is not selected exits with an error. So
each candidate is started and asked who it is, and where the path does not lead to a
version, the places where version managers keep theirs are searched as well.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["SUPPORTED", "Search", "find", "newest", "search", "versions"]

SUPPORTED = ("3.11", "3.12", "3.13", "3.14")
"""Versions that kvpool supports, oldest first."""

# `_base_executable` leads out of a virtual environment, which may be gone tomorrow.
_WHO_ARE_YOU = """
import json, sys, sysconfig
print(json.dumps({
    "executable": getattr(sys, "_base_executable", None) or sys.executable,
    "implementation": sys.implementation.name,
    "version": "%d.%d" % sys.version_info[:2],
    "final": sys.version_info.releaselevel == "final",
    "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
}))
"""


@dataclass(frozen=True)
class Search:
    """What a search for one version of Python came to.

    Parameters
    ----------
    version : str
        What was looked for, as ``"3.11"``; for the newest of several, their list.
    path : Path or None
        The interpreter, or None if there is none.
    tried : tuple of str
        Each candidate that did not serve, with the reason.
    places : tuple of str
        Every place that was searched.
    """

    version: str
    path: Path | None
    tried: tuple[str, ...]
    places: tuple[str, ...]

    @property
    def for_nox(self) -> str | Literal[False]:
        """The `python` of a nox session; False, without an environment, where there is none."""
        return False if self.path is None else str(self.path)

    def explain(self) -> str:
        """Say what was looked for, where, and what was in the way."""
        if self.path is not None:
            return f"Python {self.version}: {self.path}"
        lines = [f"Python {self.version} is needed and no interpreter of that version runs here."]
        lines += ["Looked in:", *(f"  {place}" for place in self.places)]
        if self.tried:
            lines += ["Tried in vain:", *(f"  {candidate}" for candidate in self.tried)]
        return "\n".join(lines)


def search(
    version: str,
    environ: Mapping[str, str] | None = None,
    running: str | None = sys.executable,
) -> Search:
    """Search an interpreter of one version.

    Parameters
    ----------
    version : str
        Major and minor version, as ``"3.11"``.
    environ : mapping, optional
        Stands in for the environment of this process (PATH, HOME, PYENV_ROOT, …).
    running : str or None, optional
        The interpreter that is known to run, the first candidate.

    Returns
    -------
    Search
    """
    environ = os.environ if environ is None else environ
    tried: dict[str, str] = {}
    places: list[str] = []
    for place, commands in _places(version, environ, running):
        places.append(place)
        for command in commands:
            name = " ".join(command)
            if name in tried:
                continue
            path, reason = _ask(command, version)
            if path is not None:
                return Search(version, path, _lines(tried), tuple(places))
            tried[name] = reason
    return Search(version, None, _lines(tried), tuple(places))


@functools.cache
def find(version: str) -> Search:
    """Search one version in the environment of this process, once."""
    return search(version)


def newest(versions: Sequence[str] = SUPPORTED) -> Search:
    """Search the newest of several versions.

    Parameters
    ----------
    versions : sequence of str, optional
        Oldest first.

    Returns
    -------
    Search
        Of the newest version that is at hand, or one without a path that tells of all.
    """
    searches = []
    for version in reversed(versions):
        found = find(version)
        if found.path is not None:
            return found
        searches.append(found)
    return Search(
        version=" or ".join(versions),
        path=None,
        tried=tuple(dict.fromkeys(line for one in searches for line in one.tried)),
        places=tuple(dict.fromkeys(place for one in searches for place in one.places)),
    )


def versions() -> dict[str, str]:
    """Return the full version of each supported Python at hand."""
    code = "import platform; print(platform.python_version())"
    found = {version: find(version).path for version in SUPPORTED}
    return {
        version: subprocess.run(
            [path, "-I", "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        for version, path in found.items()
        if path is not None
    }


def _places(
    version: str, environ: Mapping[str, str], running: str | None
) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield each place with its candidate commands, the likeliest first."""
    if running is not None:
        yield f"the interpreter that runs this: {running}", [[running]]
    path = _without_shims(version, environ)
    yield f"PATH, as python{version}: {path}", _on_path(f"python{version}", path)
    for root, pattern in _version_managers(version, environ):
        yield f"{root / pattern}", _installed(root, pattern)
    for directory in ("/usr/local/bin", "/usr/bin"):
        yield directory, _on_path(f"python{version}", directory)
    if launcher := shutil.which("py", path=path):
        yield f"the launcher: py -{version}", [[launcher, f"-{version}"]]
    yield "PATH, as python3 and python", [*_on_path("python3", path), *_on_path("python", path)]


def _version_managers(version: str, environ: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    """Yield the directory of each version manager and the pattern of one version in it."""
    home = Path(environ.get("HOME") or Path.home())
    share = Path(environ.get("XDG_DATA_HOME") or home / ".local/share")
    executable = f"bin/python{version}"
    yield (
        Path(environ.get("PYENV_ROOT") or home / ".pyenv") / "versions",
        f"{version}*/{executable}",
    )
    yield (
        Path(environ.get("ASDF_DATA_DIR") or home / ".asdf") / "installs/python",
        f"{version}*/{executable}",
    )
    yield (
        Path(environ.get("MISE_DATA_DIR") or share / "mise") / "installs/python",
        f"{version}*/{executable}",
    )
    yield (
        Path(environ.get("UV_PYTHON_INSTALL_DIR") or share / "uv/python"),
        f"cpython-{version}*/{executable}",
    )


def _without_shims(version: str, environ: Mapping[str, str]) -> str:
    """Return PATH without the shims of managers whose installations are searched anyway.

    A shim takes half a second to say which of those it starts, or that it starts none.
    """
    shims = {
        (root.parent if root.name == "versions" else root.parent.parent) / "shims"
        for root, _ in _version_managers(version, environ)
    }
    directories = environ.get("PATH", "").split(os.pathsep)
    return os.pathsep.join(one for one in directories if Path(one) not in shims)


def _on_path(name: str, path: str) -> list[list[str]]:
    """List every executable of a name, not only the first: the first may be a shim."""
    found = (shutil.which(name, path=directory) for directory in path.split(os.pathsep))
    return [[executable] for executable in found if executable]


def _installed(root: Path, pattern: str) -> list[list[str]]:
    """List the executables below a version manager's directory, newest patch first."""
    return [[str(path)] for path in sorted(root.glob(pattern), key=_patch, reverse=True)]


def _patch(executable: Path) -> tuple[int, ...]:
    """Sort 3.11.10 after 3.11.9; the version is in the name of the installation."""
    installation = executable.parent.parent.name
    return tuple(int(part) for part in installation.replace("-", ".").split(".") if part.isdigit())


def _ask(command: list[str], version: str) -> tuple[Path | None, str]:
    """Start a candidate; return its real path, or None and what is wrong with it."""
    try:
        answer = subprocess.run(
            [*command, "-I", "-c", _WHO_ARE_YOU],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"does not start: {error}"
    if answer.returncode != 0:
        said = answer.stderr.strip().splitlines() or ["nothing on stderr"]
        return None, f"exit status {answer.returncode}: {said[0]}"
    try:
        told = json.loads(answer.stdout)
    except ValueError:
        return None, f"is not Python: it printed {answer.stdout[:80]!r}"
    if told["version"] != version:
        return None, f"is Python {told['version']}"
    if told["implementation"] != "cpython" or told["free_threaded"] or not told["final"]:
        return None, "is not a final release of CPython with the GIL"
    return Path(told["executable"]), ""


def _lines(tried: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"{name}: {reason}" for name, reason in tried.items())


if __name__ == "__main__":
    print(json.dumps(versions()))
