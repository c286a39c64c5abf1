"""The record of a run: on what, with which versions, and every figure with its target.

One JSON file, from which the page of the docs is written; see `benchmarks.page`.
"""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Literal

import msgspec

from benchmarks.harness import Measurement, Ratio
from benchmarks.suite import Outcome

__all__ = ["Commit", "Machine", "Record", "RecordError", "begin", "read", "write"]

ROOT = Path(__file__).parents[1]


class RecordError(Exception):
    """A file is no record; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What figures depend on, and nothing that names the machine; None where it is unknown."""

    system: str
    kernel: str
    architecture: str
    processor: str
    cores: int | None
    cores_usable: int | None
    memory_bytes: int | None
    load_average_at_start: tuple[float, float, float] | None


@dataclass(frozen=True, slots=True)
class Commit:
    """The commit that was checked out, and whether the files were any other than its."""

    id: str
    changed: bool


@dataclass(frozen=True, slots=True)
class Record:
    """One run of the benchmarks."""

    format: Literal[1]
    taken: datetime.datetime
    quick: bool
    machine: Machine
    versions: dict[str, str]
    commit: Commit | None
    benchmarks: tuple[Outcome, ...] = ()

    def with_outcomes(self, outcomes: Sequence[Outcome]) -> Record:
        """Return the record with what came of the benchmarks, and the versions of the peers."""
        reports = [outcome.report for outcome in outcomes if outcome.report]
        peers = {name: version for one in reports for name, version in one.versions.items()}
        return replace(self, benchmarks=tuple(outcomes), versions=self.versions | peers)

    def targeted(self) -> list[tuple[str, Measurement | Ratio]]:
        """Return the figures that have a target, each with the name of its benchmark."""
        return [
            (outcome.name, figure)
            for outcome in self.benchmarks
            if outcome.report
            for figure in outcome.report.targeted()
        ]

    def missed(self) -> list[tuple[str, Measurement | Ratio]]:
        """Return the figures that miss their target."""
        return [(name, figure) for name, figure in self.targeted() if not figure.met]

    def with_status(self, status: str) -> list[Outcome]:
        """Return the benchmarks that ended in one way."""
        return [outcome for outcome in self.benchmarks if outcome.status == status]


def begin(quick: bool) -> Record:
    """Return the record of a run that begins now."""
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    return Record(1, now, quick, machine(), versions(), commit(ROOT))


def write(path: Path, record: Record) -> None:
    """Write a record as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = msgspec.json.format(msgspec.json.encode(record), indent=2)
    path.write_bytes(text + b"\n")


def read(path: Path) -> Record:
    """Read a record.

    Raises
    ------
    RecordError
        There is none, or something else.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror}") from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise RecordError(f"{path} is no record of benchmarks: {error}") from error


def machine() -> Machine:
    """Look at this machine."""
    affinity = getattr(os, "sched_getaffinity", None)
    return Machine(
        system=platform.system(),
        kernel=platform.release(),
        architecture=platform.machine(),
        processor=_found_in("/proc/cpuinfo", r"^model name\s*: (.+)$") or platform.processor(),
        cores=os.cpu_count(),
        cores_usable=len(affinity(0)) if affinity else None,
        memory_bytes=_memory(),
        load_average_at_start=_load_average(),
    )


def versions() -> dict[str, str]:
    """Return the versions that every figure depends on."""
    installed = {name: metadata.version(name) for name in ("kvpool", "numpy")}
    return {"python": platform.python_version(), **installed}


def commit(root: Path) -> Commit | None:
    """Return the commit of a tree; None without git, or where the tree is in no repository."""
    try:
        top = Path(_git(root, "rev-parse", "--show-toplevel"))
        if top.resolve() != root.resolve():  # an unpacked sdist inside of another repository
            return None
        return Commit(_git(root, "rev-parse", "HEAD"), bool(_git(root, "status", "--porcelain")))
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _memory() -> int | None:
    kibibytes = _found_in("/proc/meminfo", r"^MemTotal:\s+(\d+) kB$")
    return int(kibibytes) << 10 if kibibytes else None


def _load_average() -> tuple[float, float, float] | None:
    measure = getattr(os, "getloadavg", None)
    if measure is None:
        return None
    one, five, fifteen = (round(load, 2) for load in measure())
    return one, five, fifteen


def _found_in(file: str, pattern: str) -> str:
    path = Path(file)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    found = re.search(pattern, text, re.MULTILINE)
    return found[1].strip() if found else ""
