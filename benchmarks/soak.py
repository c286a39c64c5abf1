"""Whether a long run leaves nothing behind: 8 threads, every call of a manager, and interrupts.

The threads use one manager with a ledger: they create, append, read, fork, grow, truncate, pin,
wait, remove and evict sessions, some of which expire, while the main thread is interrupted every
few milliseconds. It goes on in rounds; each has a manager of its own, which is closed in the
middle of calls, and a ledger, which must verify. After the first rounds, the process may not use
more memory, descriptors or mappings any more. ``nox -s nightly``, or $KVPOOL_NIGHTLY, asks for 10
minutes; ``python -m benchmarks.soak --seconds N`` for as many as you want.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from benchmarks import tables
from benchmarks.harness import Report, Target, UnavailableError, median
from benchmarks.suite import Outcome
from tests.support.soak import SoakRound, Usage

NIGHTLY = "KVPOOL_NIGHTLY"
QUICK, USUAL, ALL_NIGHT = 4.0, 30.0, 600.0  # seconds
ROUNDS = 12
WARM_UP = 4  # rounds; two of each backend
BACKENDS = ("mmap", "ctypes")
SLACK = 4 << 20  # bytes by which the memory may differ, as allocators of memory keep some
MAPPINGS = 2  # for the same reason


def run(quick: bool) -> Report:
    """Let the threads run, and compare what the process uses at the end and after a warm-up."""
    usual = ALL_NIGHT if os.environ.get(NIGHTLY) else USUAL
    return soak(QUICK if quick else usual)


def soak(seconds: float) -> Report:
    """Return what a run of some seconds has found."""
    if sys.platform != "linux":
        raise UnavailableError("what a process uses is read from /proc")
    report = Report("a long run with 8 threads")
    calls, interrupts = 0, 0
    problems: list[str] = []
    used: list[Usage] = []
    for number in range(ROUNDS):
        with tempfile.TemporaryDirectory(prefix="kvpool-soak-") as folder:
            part = SoakRound(BACKENDS[number % len(BACKENDS)], Path(folder), number)
            part.run(seconds / ROUNDS)
        calls += sum(part.calls.values())
        interrupts += part.interrupts
        problems += part.problems
        used.append(Usage.now())
    first, last = used[WARM_UP - 1], used[-1]
    none = Target(0, at_most=True)
    report.measurements += [
        median("time", "all", "s", [seconds]),
        median("calls", "all", "calls", [calls]),
        median("interrupted calls", "main thread", "calls", [interrupts]),
        median("violations", "all", "", [len(problems)], none),
        median("memory", "after the warm-up", "MiB", [first.resident / (1 << 20)]),
        median(
            "more memory",
            "at the end",
            "MiB",
            [(last.resident - first.resident) / (1 << 20)],
            Target(SLACK / (1 << 20), at_most=True),
        ),
        median("more descriptors", "at the end", "", [last.descriptors - first.descriptors], none),
        median(
            "more mappings",
            "at the end",
            "",
            [last.mappings - first.mappings],
            Target(MAPPINGS, at_most=True),
        ),
        median("more threads", "at the end", "", [last.threads - first.threads], none),
    ]
    report.notes += problems[:20]
    report.notes += [f"after round {number + 1}: {one}" for number, one in enumerate(used)]
    return report


def main() -> int:
    """Run it by itself; return 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=USUAL, help="[default: 30]")
    seconds = parser.parse_args().seconds
    report = soak(seconds)
    tables.show(Outcome("soak", "a long run", "measured", "", seconds, report))
    return 1 if any(figure.met is False for figure in report.targeted()) else 0


if __name__ == "__main__":
    sys.exit(main())
