"""Prefix reuse: matching, inserting and evicting prompts, and a whole trace by its blocks.

kvpool's tree beside SGLang's `RadixCache` in Python and vLLM's `BlockPool` with its chain of
hashes; the manager over the tree beside SGLang's. The trace is Mooncake's conversation trace, if
``$KVPOOL_TRACES`` or ``../shared/traces`` has it.
"""

from __future__ import annotations

import itertools
import os
from array import array
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.harness import Measurement, Ratio, Report, Target, interleave, median, seconds
from benchmarks.peers import SGLANG_VERSION, VLLM_VERSION, PeerUnavailableError
from benchmarks.prefix_stores import (
    BLOCK,
    LEAF,
    KvpoolTree,
    SGLangTree,
    Store,
    Tokens,
    VLLMBlocks,
    kvpool_pass,
    sglang_pass,
)
from kvpool.replay import BlockReplay, TraceReader, TraceRequest

PROMPT = 2_048
KVPOOL = "kvpool PrefixTree"
SGLANG = "SGLang RadixCache"
VLLM = "vLLM BlockPool with hashes"
REPLAY = "kvpool BlockReplay, LRU"
FEW, MANY = 10, 1_000  # holders
TRACE_BLOCKS = 10_000
SEED = 20_231_116

MakeStore = Callable[[int], Store]
"""Makes a store with room for a number of blocks of `BLOCK` tokens."""


def run(quick: bool) -> Report:
    """Measure all of it."""
    report = Report(f"prefix tree, prompts of {PROMPT:,} tokens")
    makers: dict[str, MakeStore] = {KVPOOL: lambda _: KvpoolTree()}
    makers |= peers(report, fetch=not quick)
    measure_prompts(makers, report, quick)
    replay_trace(report, quick, beside_sglang=SGLANG in makers)
    return report


def peers(report: Report, *, fetch: bool) -> dict[str, MakeStore]:
    """Return the peers that are here, and note those that are not."""
    found: dict[str, MakeStore] = {}
    candidates: tuple[tuple[str, str, str, MakeStore], ...] = (
        (SGLANG, "sglang", SGLANG_VERSION, lambda _: SGLangTree(fetch=fetch)),
        (VLLM, "vllm", VLLM_VERSION, lambda blocks: VLLMBlocks(blocks, fetch)),
    )
    for name, distribution, version, make in candidates:
        try:
            make(1)
        except PeerUnavailableError as error:
            report.notes.append(f"without {name}: {error}")
            continue
        found[name] = make
        report.versions[distribution] = version
    report.notes.append("without nano-vllm: it is not on the package index")
    if SGLANG in found:
        report.notes.append(f"{SGLANG} has pages of {BLOCK} tokens, and of one for the trace")
    if VLLM in found:
        report.notes.append(f"{VLLM} has blocks of {BLOCK} tokens, and hashes them with SHA-256")
    return found


def measure_prompts(makers: dict[str, MakeStore], report: Report, quick: bool) -> None:
    """Measure a match, an insertion and an eviction, in every store."""
    rounds, times = (3, 50) if quick else (21, 500)
    count = 1_000 if quick else 20_000
    evict = f"evict one of {count:,} leaves"
    limits = {match(FEW): 10, match(MANY): 10, one(FEW): 10, one(MANY): 10, "insert": 20, evict: 10}
    timed: dict[tuple[str, str], Callable[[], float]] = {}
    for name, make in makers.items():
        few, many = Prompts(make, FEW), Prompts(make, MANY)
        leaves = Leaves(make, count)
        # A peer takes up to 5 ms to evict a leaf.
        evictions = times if name == KVPOOL else min(times, 20)
        timed |= {
            (match(FEW), name): partial(few.match, times),
            (match(MANY), name): partial(many.match, times),
            (one(FEW), name): partial(few.match_first, times),
            (one(MANY), name): partial(many.match_first, times),
            ("insert", name): partial(few.insert, times),
            (evict, name): partial(leaves.evict, evictions),
        }
    names = {f"{what}: {store}": (what, store) for what, store in timed}
    samples = interleave({label: timed[names[label]] for label in names}, rounds)
    measured: dict[tuple[str, str], Measurement] = {}
    for label, (what, store) in names.items():
        target = Target(limits[what], at_most=True) if store == KVPOOL else None
        measured[what, store] = median(what, store, "µs", samples[label], target)
    report.measurements += measured.values()
    for what in (match(FEW), match(MANY), "insert", evict):
        for store in makers:
            if store != KVPOOL:
                compare(report, what, measured[what, KVPOOL], measured[what, store])
    ours, theirs = measured[one(MANY), KVPOOL], measured[one(FEW), KVPOOL]
    report.ratios.append(
        Ratio(
            f"match of one prompt among {MANY:,} holders, beside {FEW}",
            ours,
            theirs,
            "times as long",
            ours.value / theirs.value,
            Target(1.25, at_most=True),
        )
    )
    report.notes.append(
        f"a match of one prompt is the same prompt again and again: {MANY:,} different ones are "
        "16 MB of token ids, which many caches of a processor do not hold"
    )


def match(holders: int) -> str:
    """Return what is measured: matching each of the prompts."""
    return f"match, resident, among {holders:,} holders"


def one(holders: int) -> str:
    """Return what is measured: matching one of the prompts."""
    return f"match, one prompt, among {holders:,} holders"


def compare(
    report: Report, what: str, ours: Measurement, theirs: Measurement, target: Target | None = None
) -> None:
    """Add how many times as fast kvpool is as a peer."""
    rate = theirs.value / ours.value
    report.ratios.append(Ratio(what, ours, theirs, "times as fast", rate, target))


class Prompts:
    """A store with prompts that share their first half by tens."""

    def __init__(self, make: MakeStore, count: int) -> None:
        draws = np.random.default_rng(SEED)
        new = 500
        self.store = make((count + new) * PROMPT // BLOCK)
        halves = [draws.integers(0, 50_000, PROMPT // 2) for _ in range(-(-count // 10))]
        self.prompts = [
            self.store.prompt(
                np.concatenate([halves[n // 10], draws.integers(0, 50_000, PROMPT // 2)])
            )
            for n in range(count)
        ]
        self.store.insert(self.prompts)
        self.new = [self.store.prompt(draws.integers(50_000, 60_000, PROMPT)) for _ in range(new)]

    def match(self, times: int) -> float:
        """Return the microseconds of one match of an array of token ids, each in turn."""
        return self._match(list(itertools.islice(itertools.cycle(self.prompts), times)))

    def match_first(self, times: int) -> float:
        """Return the microseconds of one match of the first prompt."""
        return self._match(self.prompts[:1] * times)

    def _match(self, asked: list[object]) -> float:
        start = seconds()
        self.store.match(asked)
        return (seconds() - start) / len(asked) * 1e6

    def insert(self, times: int) -> float:
        """Return the microseconds of one insertion of a prompt that is not held."""
        new = self.new[:times]
        start = seconds()
        self.store.insert(new)
        took = seconds() - start
        self.store.forget(new, self.prompts)
        return took / len(new) * 1e6


class Leaves:
    """A store with many prompts, each with a leaf of its own."""

    def __init__(self, make: MakeStore, count: int) -> None:
        self._draws = np.random.default_rng(SEED)
        self._shared: Tokens = self._draws.integers(0, 50_000, 512)
        self._store = make((512 + count * LEAF) // BLOCK)
        self._store.insert(self._new(count))

    def evict(self, times: int) -> float:
        """Return the microseconds of the eviction of one leaf of 64 tokens."""
        start = seconds()
        self._store.evict(times)
        took = seconds() - start
        self._store.refill(self._new(times))
        return took / times * 1e6

    def _new(self, count: int) -> list[object]:
        tails = (self._draws.integers(0, 50_000, LEAF) for _ in range(count))
        return [self._store.prompt(np.concatenate([self._shared, tail])) for tail in tails]


def replay_trace(report: Report, quick: bool, *, beside_sglang: bool) -> None:
    """Measure one pass over the trace, if it is here."""
    folder = Path(os.environ.get("KVPOOL_TRACES", "../shared/traces"))
    trace = folder / "mooncake_conversation.jsonl"
    if not trace.is_file():
        report.notes.append(f"without a pass over a trace: {trace} is missing")
        return
    with TraceReader(trace) as reader:
        requests = list(itertools.islice(reader, 500 if quick else None))
    hits: dict[str, int] = {}
    subjects: dict[str, Callable[[], float]] = {
        REPLAY: partial(replay_seconds, requests, hits),
        KVPOOL: partial(kvpool_seconds, requests, hits),
    }
    if beside_sglang:
        subjects[SGLANG] = partial(sglang_seconds, requests, hits)
    samples = interleave(subjects, 1 if quick else 5)
    what = f"one pass over Mooncake's trace, {TRACE_BLOCKS:,} blocks"
    targets = {} if quick else {REPLAY: Target(1.0, at_most=True)}
    measured = {
        name: median(what, name, "s", samples[name], targets.get(name)) for name in subjects
    }
    report.measurements += measured.values()
    if beside_sglang:
        target = None if quick else Target(5, at_most=False)
        compare(report, what, measured[REPLAY], measured[SGLANG], target)
        compare(report, what, measured[KVPOOL], measured[SGLANG], target)
        report.notes.append(
            f"in a pass, {REPLAY} also keeps, shares and checks bytes in a pool; the trees do not"
        )
    found = ", ".join(f"{count:,} by {name}" for name, count in hits.items())
    report.notes.append(f"blocks found in the trace: {found}")


def replay_seconds(requests: list[TraceRequest], hits: dict[str, int]) -> float:
    """Return the seconds of processor time of a replay, and note what it found."""
    with BlockReplay(TRACE_BLOCKS, "lru") as replay:
        start = seconds()
        for request in requests:
            replay.serve(request)
        took = seconds() - start
        hits[REPLAY] = replay.report().hit_blocks
    return took


def kvpool_seconds(requests: list[TraceRequest], hits: dict[str, int]) -> float:
    """Return the seconds of processor time of a pass of the tree alone, and note what it found."""
    prompts = [np.array(request.hash_blocks, np.int64) for request in requests]
    tree = KvpoolTree(chunk=1)
    start = seconds()
    hits[KVPOOL] = kvpool_pass(prompts, tree, TRACE_BLOCKS)
    return seconds() - start


def sglang_seconds(requests: list[TraceRequest], hits: dict[str, int]) -> float:
    """Return the seconds of processor time of a pass of SGLang's tree, and note what it found."""
    prompts = [array("q", request.hash_blocks or ()) for request in requests]
    tree = SGLangTree(page=1)
    start = seconds()
    hits[SGLANG] = sglang_pass(prompts, tree, TRACE_BLOCKS)
    return seconds() - start
