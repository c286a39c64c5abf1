"""What every benchmark shares: interleaved rounds, medians, figures and their targets.

Two sides of a ratio are always measured in one run and in turns, so that what else the
machine does meets both. A figure is the median of its rounds.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

__all__ = [
    "Measurement",
    "Ratio",
    "Report",
    "Run",
    "Target",
    "UnavailableError",
    "interleave",
    "median",
    "seconds",
]


class UnavailableError(Exception):
    """Something that a benchmark needs is not here; the text says what and why."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure has to reach."""

    limit: float
    at_most: bool

    def met_by(self, value: float) -> bool:
        return value <= self.limit if self.at_most else value >= self.limit

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.limit:,.10g}"


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
    met: bool | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        object.__setattr__(self, "met", self.target.met_by(self.value) if self.target else None)


@dataclass(frozen=True, slots=True)
class Ratio:
    """How two sides of a run compare; the unit says what is how many times as much.

    The value need not be the quotient of the two medians: where rounds are compared one by
    one, it is the median of their quotients.
    """

    what: str
    ours: Measurement
    theirs: Measurement
    unit: str
    value: float
    target: Target | None = None
    met: bool | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        object.__setattr__(self, "met", self.target.met_by(self.value) if self.target else None)

    @property
    def subject(self) -> str:
        """The two sides by their names."""
        return f"{self.ours.subject} beside {self.theirs.subject}"


@dataclass(slots=True)
class Report:
    """What a benchmark found; `versions` are those of the peers and tools that took part."""

    title: str
    measurements: list[Measurement] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    def targeted(self) -> list[Measurement | Ratio]:
        """Return the figures that have a target."""
        figures: list[Measurement | Ratio] = [*self.measurements, *self.ratios]
        return [figure for figure in figures if figure.target is not None]


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
