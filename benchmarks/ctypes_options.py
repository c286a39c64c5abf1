"""What huge pages, prefault and mlock do for an arena of the ctypes backend.

A round makes an arena, writes all of it for the first time, and gives it up; and makes
another one in which tokens are appended at random: 256 bytes in a page that was not touched before
before. Every set of options that the system grants is measured in the same rounds; why it
refuses the others is in the notes.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from benchmarks.harness import Ratio, Report, UnavailableError, interleave, median, seconds
from kvpool.arena import Arena
from kvpool.backends import registry
from kvpool.errors import ArenaError

MIB, GB = 1 << 20, 1e9
PAGE = 4096
ROW = 256  # bytes: one head's key of one token, 128 numbers in 16 bits
APPENDS = 2_000
SEED = 5

PLAIN = "none"
CREATE = "creation"
FIRST = "first touch of all bytes"
ALL = "creation and first touch"
APPEND = f"append of {ROW} bytes in an untouched page"
AGAIN = f"append of {ROW} bytes in a page that is there"


@dataclass(frozen=True, slots=True)
class Options:
    """A set of options of the backend."""

    name: str
    given: Mapping[str, object] = field(default_factory=dict)


CHOICES = (
    Options(PLAIN),
    Options("huge_pages=transparent", {"huge_pages": "transparent"}),
    Options("huge_pages=explicit", {"huge_pages": "explicit"}),
    Options("prefault", {"prefault": True}),
    Options("mlock", {"mlock": True}),
    Options("prefault, mlock", {"prefault": True, "mlock": True}),
)


def run(quick: bool) -> Report:
    """Measure all options that the system grants."""
    if sys.platform != "linux":
        raise UnavailableError(f"the ctypes backend is for Linux, and this is {sys.platform}")
    size = (32 if quick else 256) * MIB
    rounds = 3 if quick else 11
    report = Report(f"options of the ctypes backend, arenas of {size // MIB} MiB")
    granted = [one for one in CHOICES if is_granted(one, size, report)]
    touches = {one.name: FirstTouch(one, size) for one in granted}
    interleave({name: touch.round for name, touch in touches.items()}, rounds)
    for what, unit, samples_of in TOUCH_FIGURES:
        add(report, what, unit, {name: samples_of(touch) for name, touch in touches.items()})
    appends = {one.name: RandomAppends(one, size) for one in granted}
    interleave({name: append.round for name, append in appends.items()}, rounds)
    add(report, APPEND, "µs", {name: append.first for name, append in appends.items()})
    add(report, AGAIN, "µs", {name: append.again for name, append in appends.items()})
    return report


def is_granted(options: Options, size: int, report: Report) -> bool:
    """Tell whether the system grants the options; if not, the report says why."""
    try:
        create(options, size).close()
    except ArenaError as error:
        report.notes.append(f"{options.name} is unavailable: {error}")
        return False
    return True


class FirstTouch:
    """Arenas that are written from end to end; the samples of both steps."""

    def __init__(self, options: Options, size: int) -> None:
        self.options, self.size = options, size
        self.created: list[float] = []
        self.touched: list[float] = []

    def round(self) -> float:
        start = seconds()
        arena = create(self.options, self.size)
        created = seconds()
        np.frombuffer(arena.buffer, np.uint8)[:] = 1
        touched = seconds()
        arena.close()
        self.created.append(created - start)
        self.touched.append(touched - created)
        return touched - start

    def creation(self) -> list[float]:
        """Return the milliseconds of the creation."""
        return [took * 1e3 for took in self.created]

    def rate(self) -> list[float]:
        """Return how fast the bytes were written, in GB/s."""
        return [self.size / GB / took for took in self.touched]

    def whole_rate(self) -> list[float]:
        """Return the same with the creation counted, which commits pages in advance."""
        both = zip(self.created, self.touched, strict=True)
        return [self.size / GB / (created + touched) for created, touched in both]


TOUCH_FIGURES: tuple[tuple[str, str, Callable[[FirstTouch], list[float]]], ...] = (
    (CREATE, "ms", FirstTouch.creation),
    (FIRST, "GB/s", FirstTouch.rate),
    (ALL, "GB/s", FirstTouch.whole_rate),
)


class RandomAppends:
    """Appends to random pages of a new arena, each page once, and then once more."""

    def __init__(self, options: Options, size: int) -> None:
        self.options, self.size = options, size
        self.pages = random.Random(SEED).sample(range(size // PAGE), APPENDS)
        self.first: list[float] = []
        self.again: list[float] = []

    def round(self) -> float:
        arena = create(self.options, self.size)
        data, row = np.frombuffer(arena.buffer, np.uint8), np.ones(ROW, np.uint8)
        self.first.append(self.appends(data, row, 0))
        self.again.append(self.appends(data, row, ROW))
        arena.close()
        return self.first[-1]

    def appends(self, data: np.ndarray, row: np.ndarray, offset: int) -> float:
        """Return the microseconds of one append."""
        starts = [page * PAGE + offset for page in self.pages]
        begin = seconds()
        for start in starts:
            data[start : start + ROW] = row
        return (seconds() - begin) / len(starts) * 1e6


def create(options: Options, size: int) -> Arena:
    return registry.choose("ctypes").create(size, **options.given)


def add(report: Report, what: str, unit: str, samples: Mapping[str, list[float]]) -> None:
    """Add a figure for each set of options, and how it compares with none of them."""
    measured = {name: median(what, name, unit, found) for name, found in samples.items()}
    report.measurements += measured.values()
    plain = measured[PLAIN]
    for name, ours in measured.items():
        if name != PLAIN and what != CREATE:
            is_rate = unit == "GB/s"
            faster = ours.value / plain.value if is_rate else plain.value / ours.value
            report.ratios.append(Ratio(what, ours, plain, "times as fast", faster))
