"""Benchmarks that end as a test wants them to, and records of what they found."""

from __future__ import annotations

import datetime
from types import ModuleType
from typing import Protocol

from benchmarks.harness import Ratio, Report, Target, median
from benchmarks.record import Commit, Machine, Record
from benchmarks.suite import Outcome

__all__ = ["MEASURES", "MakePackage", "record", "report"]

MEASURES = '''\
"""How fast
it is.

By what method.
"""

from benchmarks.harness import Report, Target, median


def run(quick):
    report = Report("speed", versions={"peer": "1.2"})
    rounds = [1.0] if quick else [1.0, 2.0, 3.0]
    report.measurements.append(median("a | b", "ours", "µs", rounds, Target(1.5, at_most=True)))
    return report
'''


class MakePackage(Protocol):
    """Writes a package with these modules, and imports it."""

    def __call__(self, **texts: str) -> ModuleType: ...


def report() -> Report:
    """Return what a benchmark of two sides found: one target met, one missed."""
    ours = median("one task", "ours", "µs", [1.0, 2.0, 3.0], Target(2, at_most=True))
    theirs = median("one task", "theirs", "µs", [4000.0, 5000.0, 6000.0])
    ratio = Ratio("one task", ours, theirs, "times as fast", 2500, Target(3000, at_most=False))
    return Report("speed", [ours, theirs], [ratio], ["all is small"], {"peer": "1.2"})


def record() -> Record:
    """Return a record with a benchmark of each status."""
    begun = Record(
        format=1,
        taken=datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
        quick=False,
        machine=Machine("Linux", "6.1", "x86_64", "A processor", 4, 2, 8 << 30, (0.5, 1.0, 1.5)),
        versions={"python": "3.11.7", "kvpool": "0.1"},
        commit=Commit("0123456789abcdef", changed=False),
    )
    return begun.with_outcomes(
        [
            Outcome("speed", "How fast it is.", "measured", "", 1.5, report()),
            Outcome("torch_speed", "With torch.", "skipped", "there is no torch", 0.1),
            Outcome("broken", "Breaks.", "failed", "ValueError: 7 is too many", 0.2),
        ]
    )
