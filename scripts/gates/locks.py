"""Write the lock files of `requirements/`.

Each file holds the run-time dependencies of kvpool, the tools of one dependency group, or
both, with exact versions and hashes, for every supported Python and platform at once.
`min-python.txt` differs: it pins the run-time dependencies to the lowest versions that
`pyproject.toml` allows, on the oldest Python, and everything else as usual.

The files of constraints differ as well: they have the versions, without hashes, of what the groups
with torch, with servers and with engines need. Which build of torch fits depends on the machine, so
pip installs these groups by their names, within these versions. vLLM has a file of its own, because
it wants other versions than the rest, and LMCache has one within that.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from packaging.requirements import Requirement

__all__ = ["CONSTRAINED", "LOCKS", "constraints_of", "write_all"]

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

CONSTRAINED = {
    "constraints": (
        "bench-serve",
        "bench-tiers",
        "engine-llama",
        "integration",
        "model",
        "plot",
        "transformers",
    ),
    "constraints-sglang": ("engine-sglang",),
    "constraints-vllm": ("engine-vllm",),
    "constraints-lmcache": ("engine-lmcache",),
}
"""Name of each file of constraints, and the dependency groups that are installed within them."""

AROUND = {"constraints-vllm": None, "constraints-lmcache": "requirements/constraints-vllm.txt"}
"""The versions that a file of constraints keeps to, where they are not those of the tests.

The file has to be written before.
"""


def constraints_of(groups: Iterable[str]) -> str | None:
    """Return the file of constraints that all of some groups have; None if there is none."""
    wanted = set(groups)
    files = [name for name, has in CONSTRAINED.items() if wanted <= set(has)]
    return f"requirements/{files[0]}.txt" if files else None


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
    for name in CONSTRAINED:
        _write_constraints([*compiler, *extra], root, name)
    for name in [*LOCKS, "min-python", *CONSTRAINED]:
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


def _write_constraints(compiler: list[str], root: Path, name: str) -> None:
    """Pin what groups need, around the versions of the tests, which they are installed on.

    What vLLM wants replaces some of those; what LMCache needs is installed on vLLM.
    """
    sources = [option for group in CONSTRAINED[name] for option in ("--group", group)]
    around = AROUND.get(name, "requirements/test.txt")
    if around is not None:
        sources += ["--constraints", around]
    output = f"requirements/{name}.txt"
    options = ["--no-generate-hashes", "--no-annotate", "--output-file", output]
    _compile([*compiler, *options, *sources], root)


def _compile(command: list[str], root: Path) -> None:
    subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL)


def _check(lock: Path) -> None:
    """Refuse a lock that would only work where it was written."""
    for number, line in enumerate(lock.read_text(encoding="utf-8").splitlines(), 1):
        if "://" in line or "index-url" in line or re.search(r"(^|\s)(/|[A-Za-z]:\\)\w", line):
            raise ValueError(f"{lock}, line {number} names a host or a path: {line}")
