"""What an elastic pool costs beside a rigid one: appends, look-ups, and giving pages back.

Sessions have the shape of an 8B-class model: 32 layers, 8 heads, 128 numbers in 16 bits. A
step of decoding appends one token to each layer. Both pools hold the same tokens; the rigid
one keeps the whole block of an entry, the elastic one the pages of its tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Ratio, Report, UnavailableError, interleave, median, seconds
from kvpool.cache_key import CacheKey
from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager

BACKENDS = ("mmap", "ctypes")
KINDS = {"elastic": True, "rigid": False}
LAYOUT = KVLayout(layers=32, kv_heads=8, head_dim=128, dtype="float16")
MIB, GIB = 1 << 20, 1 << 30
LONG = 131_072  # tokens of the longest context: 16 GiB
CONTEXT = 2_048  # tokens of a session that a rigid pool can hold as well: 256 MiB
PAGE_TOKENS = 16  # of one head, in a page of 4 KiB
KEY = CacheKey("elastic", "session")

IN_PAGE = "append a token to a layer, in a page that is there"
STEADY = f"append a token to a layer, {PAGE_TOKENS} steps and a new page for each head"
EXTEND = "extend all 32 layers by a token, in pages that are there"
GET = "get_cache_entry"
VIEW = "key, of a layer"
TURN = "remove 256 MiB, and create the next session"
TRUNCATE = "truncate 256 MiB to nothing, by GiB"
REMOVE = "remove 256 MiB, by GiB"
EMPTY = f"create and remove, max_context_length {LONG:,}"

Subject = Callable[[], float]
"""Does something once, and returns what it cost."""


def run(quick: bool) -> Report:
    """Measure all of it on every backend."""
    if sys.platform != "linux":
        raise UnavailableError(f"arenas are elastic on Linux only, and this is {sys.platform}")
    report = Report("elastic pools beside rigid ones")
    report.notes.append(
        "a rigid pool has its pages after the first round; an elastic one gets them back each time"
    )
    report.notes.append("a rigid pool writes zeros when a block is taken again: create does")
    for backend in BACKENDS:
        decoding(report, backend, rounds=5 if quick else 101)
        ending(report, backend, rounds=2 if quick else 9)
        empty(report, backend, rounds=5 if quick else 51)
    return report


# -- one token after the other -----------------------------------------------------------


class Decoding:
    """A session that decodes, and an engine that keeps a view of it while it does."""

    def __init__(self, backend: str, elastic: bool) -> None:
        self.manager = KVCacheManager(512 * MIB, backend, LAYOUT, elastic=elastic)
        self.entry = self.manager.create_cache_entry(KEY, CONTEXT)
        self.row = tokens(1)[0]
        self.rows = tokens(1)

    def subjects(self) -> dict[str, Subject]:
        return {
            IN_PAGE: self.in_page,
            STEADY: self.steady,
            EXTEND: self.extend,
            GET: partial(self.repeat, partial(self.manager.get_cache_entry, KEY)),
            VIEW: partial(self.repeat, partial(self.entry.key, 3)),
        }

    def in_page(self) -> float:
        """Return the microseconds of an append that finds its page."""
        self.entry.truncate(0)
        self.entry.extend(self.rows, self.rows)
        return self.steps(PAGE_TOKENS - 1)

    def steady(self) -> float:
        """Return the microseconds of an append, over the steps from one page to the next."""
        self.entry.truncate(0)
        return self.steps(PAGE_TOKENS)

    def steps(self, count: int) -> float:
        append, row, layers = self.entry.append, self.row, range(LAYOUT.layers)
        lease = self.entry.lease()
        start = seconds()
        for _ in range(count):
            for layer in layers:
                append(layer, row, row)
        took = seconds() - start
        del lease
        return took / count / LAYOUT.layers * 1e6

    def extend(self) -> float:
        """Return the microseconds of an extend that finds its pages."""
        self.entry.truncate(0)
        self.entry.extend(self.rows, self.rows)
        lease = self.entry.lease()
        start = seconds()
        for _ in range(PAGE_TOKENS - 1):
            self.entry.extend(self.rows, self.rows)
        took = seconds() - start
        del lease
        return took / (PAGE_TOKENS - 1) * 1e6

    @staticmethod
    def repeat(call: Callable[[], object], times: int = 200) -> float:
        """Return the microseconds of a call."""
        start = seconds()
        for _ in range(times):
            call()
        return (seconds() - start) / times * 1e6


def decoding(report: Report, backend: str, rounds: int) -> None:
    """Measure what a step costs in both kinds of pool."""
    sides = {kind: Decoding(backend, elastic) for kind, elastic in KINDS.items()}
    works = {kind: side.subjects() for kind, side in sides.items()}
    for what in works["elastic"]:
        compare(report, what, backend, {kind: works[kind][what] for kind in KINDS}, "µs", rounds)
    for side in sides.values():
        side.manager.check_integrity()
        side.manager.close()


# -- pages that go back ------------------------------------------------------------------


class Ending:
    """A session of 256 MiB that ends, again and again."""

    def __init__(self, backend: str, elastic: bool) -> None:
        self.manager = KVCacheManager(256 * MIB, backend, LAYOUT, elastic=elastic)
        self.chunk = tokens(256)

    def fill(self) -> None:
        entry = self.manager.get_or_create_cache(KEY, CONTEXT)
        entry.truncate(0)
        for _ in range(CONTEXT // 256):
            entry.extend(self.chunk, self.chunk)

    def turn(self) -> float:
        """Return the milliseconds until the next session can begin."""
        self.fill()
        start = seconds()
        self.manager.remove_cache_entry(KEY)
        self.manager.create_cache_entry(KEY, CONTEXT)
        return (seconds() - start) * 1e3

    def truncate(self) -> float:
        """Return the milliseconds that the pages take to go, by GiB."""
        self.fill()
        entry = self.manager.get_or_create_cache(KEY, CONTEXT)
        start = seconds()
        entry.truncate(0)
        return (seconds() - start) * 1e3 * GIB / (256 * MIB)

    def remove(self) -> float:
        """Return the milliseconds that the pages take to go, by GiB."""
        self.fill()
        start = seconds()
        self.manager.remove_cache_entry(KEY)
        return (seconds() - start) * 1e3 * GIB / (256 * MIB)


def ending(report: Report, backend: str, rounds: int) -> None:
    """Measure what it costs to give pages back."""
    sides = {kind: Ending(backend, elastic) for kind, elastic in KINDS.items()}
    turns = {kind: side.turn for kind, side in sides.items()}
    compare(report, TURN, backend, turns, "ms", rounds)
    only = sides["elastic"]
    samples = interleave({TRUNCATE: only.truncate, REMOVE: only.remove}, rounds)
    for what, taken in samples.items():
        report.measurements.append(median(what, f"elastic, {backend}", "ms", taken))
    for side in sides.values():
        side.manager.check_integrity()
        side.manager.close()


def empty(report: Report, backend: str, rounds: int) -> None:
    """Measure an entry of the longest context that holds nothing; rigid, it would be 16 GiB."""
    with KVCacheManager(256 * MIB, backend, LAYOUT) as manager:

        def turn() -> None:
            manager.create_cache_entry(KEY, LONG)
            manager.remove_cache_entry(KEY)

        samples = interleave({backend: partial(Decoding.repeat, turn, 50)}, rounds)
    report.measurements.append(median(EMPTY, f"elastic, {backend}", "µs", samples[backend]))


# -- what they share ---------------------------------------------------------------------


def compare(
    report: Report, what: str, backend: str, sides: dict[str, Subject], unit: str, rounds: int
) -> None:
    """Measure both kinds of pool in turns, and add the figures and how they compare."""
    samples = interleave(sides, rounds)
    ours, theirs = (median(what, f"{kind}, {backend}", unit, samples[kind]) for kind in KINDS)
    report.measurements += [ours, theirs]
    faster = theirs.value / ours.value
    report.ratios.append(Ratio(what, ours, theirs, "times as fast", faster))


def tokens(count: int) -> NDArray[np.float16]:
    """Return keys, or values, of some tokens for all layers."""
    return np.ones((LAYOUT.layers, LAYOUT.kv_heads, count, LAYOUT.head_dim), np.float16)
