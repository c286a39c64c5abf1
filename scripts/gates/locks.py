"""Write the lock files of `requirements/`.

Each file holds the run-time dependencies of kvpool, the tools of one dependency group, or
both, with exact versions and hashes, for every supported Python and platform at once.
`min-python.txt` differs: it pins the run-time dependencies to the lowest versions that
`pyproject.toml` allows, on the oldest Python, and everything else as usual.

`constraints.txt` differs as well: it has the versions, without hashes, of what the groups with
torch and with servers need. Which build of torch fits depends on the machine, so pip installs
these groups by their names, within these versions.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from packaging.requirements import Requirement

__all__ = ["CONSTRAINED", "CONSTRAINTS", "LOCKS", "write_all"]

LOCKS = {
    "nox": ("nox", False),
    "build": ("build", False),
    "format": ("format", False),
    "stack": ("stack", False),
    "runtime": (None, True),
    "test": ("test", True),
    "docs": ("docs", True),
    "lint": ("lint", True),
    "bench": ("bench", True),
}
"""Name of each file: its dependency group, and whether it holds the run-time dependencies."""

CONSTRAINED = (
    "bench-serve",
    "bench-tiers",
    "engine-llama",
    "integration",
    "model",
    "plot",
    "transformers",
)
"""Dependency groups that are installed within the versions of `CONSTRAINTS`."""

CONSTRAINTS = "requirements/constraints.txt"


def write_all(uv: str, root: Path, oldest: str, extra: Sequence[str]) -> None:
    """Write every lock file.

    Parameters
    ----------
    uv : str
        The uv executable.
    root : Path
        The directory of `pyproject.toml`.
    oldest : str
        The oldest supported Python, as ``"3.11"``.
    extra : sequence of str
        Options for ``uv pip compile``; without ``--upgrade`` the versions that the files
        name already stay, wherever they still fit.

    Raises
    ------
    subprocess.CalledProcessError
        A resolution failed; uv has said why.
    ValueError
        A written file names an index, another host or a path.
    """
    compiler = [uv, "pip", "compile", "--quiet", "--universal", "--python-version", oldest]
    compiler += ["--generate-hashes", "--custom-compile-command", "nox -s lock"]
    directory = root / "requirements"
    for name, (group, runtime) in LOCKS.items():
        sources = ["pyproject.toml"] if runtime else []
        sources += ["--group", group] if group else []
        output = directory / f"{name}.txt"
        _compile([*compiler, *extra, *sources, "--output-file", str(output)], root)
    _write_lowest([*compiler, *extra], root, directory / "min-python.txt")
    _write_constraints([*compiler, *extra], root)
    for name in [*LOCKS, "min-python", "constraints"]:
        _check(directory / f"{name}.txt")


def _write_lowest(compiler: list[str], root: Path, output: Path) -> None:
    """Pin the direct dependencies to their lowest versions, then resolve the rest around them.

    One call does not do: `--resolution lowest-direct` would lower the test tools as well.
    """
    with tempfile.TemporaryDirectory() as scratch:
        lowest = Path(scratch) / "lowest.txt"
        options = ["--resolution", "lowest-direct", "--no-deps"]
        _compile([*compiler, *options, "pyproject.toml", "--output-file", str(lowest)], root)
        pins = Path(scratch) / "pins.txt"
        lines = lowest.read_text(encoding="utf-8").splitlines()
        names = [line.removesuffix(" \\") for line in lines if re.match(r"[\w.-]+==", line)]
        pins.write_text("\n".join(str(Requirement(name)) for name in names), encoding="utf-8")
        sources = ["pyproject.toml", "--group", "test", "--constraints", str(pins)]
        # The annotations would name the temporary file.
        _compile([*compiler, "--no-annotate", *sources, "--output-file", str(output)], root)


def _write_constraints(compiler: list[str], root: Path) -> None:
    """Pin what the groups need around the versions of the tests, which they are installed on."""
    sources = [option for group in CONSTRAINED for option in ("--group", group)]
    sources += ["--constraints", "requirements/test.txt"]
    options = ["--no-generate-hashes", "--no-annotate", "--output-file", CONSTRAINTS]
    _compile([*compiler, *options, *sources], root)


def _compile(command: list[str], root: Path) -> None:
    subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL)


def _check(lock: Path) -> None:
    """Refuse a lock that would only work where it was written."""
    for number, line in enumerate(lock.read_text(encoding="utf-8").splitlines(), 1):
        if "://" in line or "index-url" in line or re.search(r"(^|\s)(/|[A-Za-z]:\\)\w", line):
            raise ValueError(f"{lock}, line {number} names a host or a path: {line}")
