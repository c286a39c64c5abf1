"""Whether sessions hold what was written, over very many random calls beside plain arrays.

The state machine of the tests creates, appends, truncates, forks, grows, removes and evicts
sessions and keeps views of them; after each step every view, every token and all books are
compared with a model that keeps plain arrays. The steps are spread over the backends, elastic
and rigid, and over what a run of tokens may hold.

And whether ledgers verify: 8 threads use one manager, which is closed at a random moment.

``nox -s nightly``, or $KVPOOL_NIGHTLY, asks for ten times as many calls and ledgers.
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import Report, Target, median
from kvpool.layout import Packing
from kvpool.ledger import verify
from tests.support.busy_ledgers import BACKENDS, write_busy_ledger
from tests.support.elastic_machine import run as run_machine

NIGHTLY = "KVPOOL_NIGHTLY"
QUICK_STEPS, STEPS, NIGHTLY_STEPS = 2_000, 20_000, 200_000
PART = 2_000  # steps of one call
QUICK_LEDGERS, LEDGERS, NIGHTLY_LEDGERS = 4, 100, 1_000
SEED, SEEDS = 5, 1_000  # a part begins with a seed of its own, and takes the next ones as well


@dataclass(frozen=True, slots=True)
class Subject:
    """A kind of pool, and how many of 20 parts of the steps are its."""

    backend: str
    elastic: bool
    packing: Packing
    parts: int

    @property
    def name(self) -> str:
        kind = "elastic" if self.elastic else "rigid"
        return f"{self.backend}, {kind}, by {self.packing}"


RIGID = (Subject("numpy", elastic=False, packing="head", parts=4),)
ELASTIC = (
    Subject("mmap", elastic=True, packing="head", parts=4),
    Subject("mmap", elastic=True, packing="layer", parts=2),
    Subject("mmap", elastic=True, packing="token", parts=2),
    Subject("ctypes", elastic=True, packing="head", parts=4),
    Subject("ctypes", elastic=True, packing="layer", parts=2),
    Subject("ctypes", elastic=True, packing="token", parts=2),
)


def run(quick: bool) -> Report:
    """Run the machine on every kind of pool."""
    subjects = RIGID + ELASTIC if sys.platform == "linux" else RIGID
    nightly = bool(os.environ.get(NIGHTLY))
    total, ledgers = (NIGHTLY_STEPS, NIGHTLY_LEDGERS) if nightly else (STEPS, LEDGERS)
    if quick:
        total, ledgers = QUICK_STEPS, QUICK_LEDGERS
    parts = sum(subject.parts for subject in subjects)
    report = Report("random calls beside plain arrays")
    done = 0
    violations: list[str] = []
    for subject in subjects:
        steps, took = tried(subject, -(-total * subject.parts // parts), violations)
        report.measurements.append(median("steps", subject.name, "steps", [steps]))
        report.measurements.append(median("rate", subject.name, "steps/s", [steps / took]))
        done += steps
    enough, none = Target(total, at_most=False), Target(0, at_most=True)
    report.measurements.append(median("steps", "all", "steps", [done], enough))
    report.measurements.append(median("violations", "all", "", [len(violations)], none))
    failed = ledgers_that_fail(ledgers)
    enough = Target(ledgers, at_most=False)
    report.measurements += [
        median("ledgers", "8 threads", "ledgers", [ledgers], enough),
        median("ledgers that do not verify", "8 threads", "", [len(failed)], none),
    ]
    report.notes += violations + failed
    return report


def ledgers_that_fail(count: int) -> list[str]:
    """Write ledgers with many threads each; return what is wrong with those that fail."""
    failed = []
    for number in range(count):
        backend = BACKENDS[number % len(BACKENDS)]
        with tempfile.TemporaryDirectory(prefix="kvpool-ledger-") as folder:
            path = Path(folder) / "a.jsonl"
            write_busy_ledger(path, backend, number)
            report = verify(path)
            if not report.ok:
                failed.append(f"ledger {number}, {backend}: {report.findings[0]}")
    return failed


def tried(subject: Subject, steps: int, violations: list[str]) -> tuple[int, float]:
    """Return the steps that were made, and the seconds; note what went wrong.

    A part that goes wrong counts as a part of the steps, so that this comes to an end.
    """
    done, start = 0, time.perf_counter()
    for first_seed in itertools.count(SEED, SEEDS):
        if done >= steps:
            break
        part = min(PART, steps - done)
        try:
            done += run_machine(part, first_seed, subject.backend, subject.elastic, subject.packing)
        except Exception as error:
            reason = str(error).partition("\n")[0]
            violations.append(
                f"{subject.name}, seed {first_seed}: {type(error).__name__}: {reason}"
            )
            done += part
    return done, time.perf_counter() - start
