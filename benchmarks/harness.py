"""What every benchmark shares: interleaved rounds, medians, a table, and a record.

Two sides of a ratio are always measured in one run and in turns, so that what else the
machine does meets both. A figure is the median of its rounds.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = [
    "Measurement",
    "Ratio",
    "Report",
    "Run",
    "Target",
    "interleave",
    "main",
    "median",
    "seconds",
]


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure has to reach."""

    limit: float
    at_most: bool

    def met_by(self, value: float) -> bool:
        return value <= self.limit if self.at_most else value >= self.limit

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.limit:g}"


@dataclass(frozen=True, slots=True)
class Measurement:
    """One figure: the median of its rounds, and the quartiles around it."""

    what: str
    subject: str
    unit: str
    value: float
    lower_quartile: float
    upper_quartile: float
    rounds: int
    target: Target | None = None


@dataclass(frozen=True, slots=True)
class Ratio:
    """How much better one side of a run is than the other; more than 1 is better."""

    what: str
    ours: Measurement
    theirs: Measurement
    value: float
    target: Target | None = None


@dataclass(slots=True)
class Report:
    """What a benchmark found."""

    title: str
    measurements: list[Measurement] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    def missed(self) -> list[str]:
        """Return a line for each target that was not reached."""
        figures: list[Measurement | Ratio] = [*self.measurements, *self.ratios]
        return [
            f"{figure.what}: {figure.value:.4g}, target {figure.target}"
            for figure in figures
            if figure.target and not figure.target.met_by(figure.value)
        ]


Run = Callable[[bool], Report]
"""A benchmark: ``run(quick)``. Quick shows that it works; the figures come from a full run."""


def seconds() -> float:
    """Return the processor time of this thread, so that other programs count for less.

    Where that clock is coarse, as on Windows, it is the time of the wall.
    """
    fine = time.get_clock_info("thread_time").resolution < 1e-6
    return time.thread_time() if fine else time.perf_counter()


def interleave(subjects: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Call every subject once a round, in an order that turns, and collect what they return.

    The garbage collector runs between the rounds and not in them.
    """
    samples: dict[str, list[float]] = {name: [] for name in subjects}
    names = list(subjects)
    was_enabled = gc.isenabled()
    try:
        for turn in range(rounds):
            gc.collect(0)
            gc.disable()
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                samples[name].append(subjects[name]())
            gc.enable()
    finally:
        (gc.enable if was_enabled else gc.disable)()
    return samples


def median(
    what: str, subject: str, unit: str, samples: list[float], target: Target | None = None
) -> Measurement:
    """Sum up the samples of one subject."""
    if len(samples) > 1:
        lower, middle, upper = statistics.quantiles(samples, n=4, method="inclusive")
    else:
        lower = middle = upper = samples[0]
    return Measurement(what, subject, unit, middle, lower, upper, len(samples), target)


def main(run: Run) -> None:
    """Run one benchmark from the command line."""
    options = parse_arguments()
    report = run(options.quick)
    show(report)
    if options.json:
        write_records(options.json, [report], quick=options.quick)
    if options.check and report.missed():
        sys.exit(1)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a few rounds, to see it work")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record to FILE")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a target is missed")
    return parser.parse_args()


def show(report: Report) -> None:
    """Print the tables of a report."""
    console = Console(width=None if sys.stdout.isatty() else 110)
    figures = Table("what", "subject", "median", "quartiles", "target", title=report.title)
    for one in report.measurements:
        quartiles = f"{one.lower_quartile:.4g} / {one.upper_quartile:.4g}"
        value = f"{one.value:.4g} {one.unit}"
        figures.add_row(one.what, one.subject, value, quartiles, verdict(one.target, one.value))
    console.print(figures)
    if report.ratios:
        ratios = Table("what", "ours", "theirs", "ratio", "target", title="side by side")
        for ratio in report.ratios:
            sides = (ratio.ours.subject, ratio.theirs.subject)
            target = verdict(ratio.target, ratio.value)
            ratios.add_row(ratio.what, *sides, f"{ratio.value:.2f}", target)
        console.print(ratios)
    for note in report.notes:
        console.print(f"note: {note}", markup=False)


def verdict(target: Target | None, value: float) -> str:
    if target is None:
        return ""
    return f"{target} [green]met[/]" if target.met_by(value) else f"{target} [red]missed[/]"


def write_records(path: Path, reports: list[Report], *, quick: bool) -> None:
    """Write what was found and on what, both sides of each ratio included."""
    record = {
        "taken": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "machine": machine(),
        "versions": versions(),
        "benchmarks": [asdict(report) | {"missed": report.missed()} for report in reports],
    }
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    """Return what the figures depend on; nothing that names the machine."""
    cpuinfo = Path("/proc/cpuinfo")
    models = [
        line.partition(":")[2].strip()
        for line in (cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else ())
        if line.startswith("model name")
    ]
    return {
        "system": platform.system(),
        "release": platform.release(),
        "architecture": platform.machine(),
        "processor": models[0] if models else platform.processor(),
        "cpus": os.cpu_count(),
    }


def versions() -> dict[str, str]:
    installed = {name: metadata.version(name) for name in ("kvpool", "numpy")}
    return {"python": platform.python_version(), **installed}
