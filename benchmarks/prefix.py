"""Prefix reuse: matching, inserting and evicting prompts, and a whole trace by its blocks.

The tree alone, and the manager over it. The trace is Mooncake's conversation trace, if
``$KVPOOL_TRACES`` or ``../shared/traces`` has it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.harness import Report, Target, interleave, median, seconds
from kvpool.cache_key import CacheKey
from kvpool.eviction.lru import LruPolicy
from kvpool.layout import KVLayout
from kvpool.prefix import Identity, PrefixTree, Ranking, token_bytes
from kvpool.replay import BlockReplay, TraceReader, TraceRequest

LAYOUT = KVLayout(layers=1, kv_heads=1, head_dim=2, dtype="float16")
IDENTITY = Identity("model", "", LAYOUT)
PROMPT = 2_048
TREE = "kvpool PrefixTree"
REPLAY = "kvpool BlockReplay, LRU"
TRACE_BLOCKS = 10_000
SEED = 20_231_116


def run(quick: bool) -> Report:
    """Measure all of it."""
    rounds, times = (3, 50) if quick else (21, 500)
    report = Report(f"prefix tree, prompts of {PROMPT:,} tokens")
    few, many = Prompts(10), Prompts(1_000)
    leaves = Leaves(1_000 if quick else 20_000)
    subjects: dict[str, tuple[Callable[[int], float], float]] = {
        "match, resident, among 10 holders": (few.match, 10),
        "match, resident, among 1,000 holders": (many.match, 10),
        "insert": (few.insert, 20),
        f"evict one of {leaves.count:,} leaves": (leaves.evict, 10),
    }
    timed = {what: partial(act, times) for what, (act, _) in subjects.items()}
    samples = interleave(timed, rounds)
    for what, (_, limit) in subjects.items():
        report.measurements.append(
            median(what, TREE, "µs", samples[what], Target(limit, at_most=True))
        )
    replay_trace(report, quick)
    return report


class Prompts:
    """A tree with sessions that share their first half by tens."""

    def __init__(self, count: int) -> None:
        draws = np.random.default_rng(SEED)
        self.tree = PrefixTree(LruPolicy(), 64)
        halves = [draws.integers(0, 50_000, PROMPT // 2) for _ in range(-(-count // 10))]
        self.prompts = [
            np.concatenate([halves[n // 10], draws.integers(0, 50_000, PROMPT // 2)])
            for n in range(count)
        ]
        for number, prompt in enumerate(self.prompts):
            self.tree.hold(CacheKey("held", number), IDENTITY, token_bytes(prompt))
        self.new = [draws.integers(50_000, 60_000, PROMPT) for _ in range(500)]

    def match(self, times: int) -> float:
        """Return the microseconds of one match of an array of token ids."""
        tree, prompts = self.tree, itertools.cycle(self.prompts)
        asked = [next(prompts) for _ in range(times)]
        start = seconds()
        for prompt in asked:
            tree.match(IDENTITY, token_bytes(prompt))
        return (seconds() - start) / times * 1e6

    def insert(self, times: int) -> float:
        """Return the microseconds of one insertion of a prompt that no session holds."""
        tree, new = self.tree, self.new[:times]
        keys = [CacheKey("new", number) for number in range(len(new))]
        start = seconds()
        for key, prompt in zip(keys, new, strict=True):
            tree.hold(key, IDENTITY, token_bytes(prompt))
        took = seconds() - start
        for key in keys:
            tree.drop(key)
        return took / len(new) * 1e6


class Leaves:
    """A tree of many sessions, each with a leaf of its own."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.ranking = Ranking(LruPolicy(), 64)
        self._draws = np.random.default_rng(SEED)
        self._numbers = itertools.count()
        self._shared = self._draws.integers(0, 50_000, 512)
        for _ in range(count):
            self._hold()

    def evict(self, times: int) -> float:
        """Return the microseconds of the eviction of one leaf of 64 tokens."""
        ranking, tree = self.ranking, self.ranking.tree
        start = seconds()
        for _ in range(times):
            for step in ranking.plan(64, len, _always, by_tokens=True) or ():
                if not isinstance(step, CacheKey):
                    for key in tree.cut(step)[1]:
                        ranking.remove(key)
        took = seconds() - start
        for _ in range(times):
            self._hold()
        return took / times * 1e6

    def _hold(self) -> None:
        tail = self._draws.integers(0, 50_000, 64)
        tokens = token_bytes(np.concatenate([self._shared, tail]))
        key = CacheKey("leaf", next(self._numbers))
        self.ranking.admit(key, 1)
        self.ranking.hold(key, IDENTITY, tokens)


def _always(_key: CacheKey) -> bool:
    return True


def replay_trace(report: Report, quick: bool) -> None:
    """Measure one pass over the trace, if it is here."""
    folder = Path(os.environ.get("KVPOOL_TRACES", "../shared/traces"))
    trace = folder / "mooncake_conversation.jsonl"
    if not trace.is_file():
        report.notes.append(f"without a pass over a trace: {trace} is missing")
        return
    with TraceReader(trace) as reader:
        requests = list(itertools.islice(reader, 500 if quick else None))
    samples = [one_pass(requests) for _ in range(1 if quick else 5)]
    target = None if quick else Target(1.0, at_most=True)
    what = f"one pass over Mooncake's trace, {TRACE_BLOCKS:,} blocks"
    report.measurements.append(median(what, REPLAY, "s", samples, target))


def one_pass(requests: list[TraceRequest]) -> float:
    """Return the seconds of processor time of a replay."""
    with BlockReplay(TRACE_BLOCKS, "lru") as replay:
        start = seconds()
        for request in requests:
            replay.serve(request)
        return seconds() - start
