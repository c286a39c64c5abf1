"""`measure`: the curves of all policies over one trace."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kvpool._checks import whole_number
from kvpool.eviction.registry import registry
from kvpool.layout import KVLayout
from kvpool.plugins import PluginState
from kvpool.sizing._ages import block_lifetimes, reuse_ages
from kvpool.sizing._clairvoyant import clairvoyant_curve
from kvpool.sizing._curve import HitCurve
from kvpool.sizing._errors import SizingError
from kvpool.sizing._lru import lru_curve, stack_distances
from kvpool.sizing._prefix_trace import PrefixTrace
from kvpool.sizing._report import SHARES, SizingReport
from kvpool.sizing._sampling import Sample, draw_sample
from kvpool.sizing._workers import Case, simulate

__all__ = ["LRU", "WHOLE_REFERENCES", "measure", "usable_policies"]

LRU: Final = "lru"
"""The policy whose hits are known at every size from one pass."""

WHOLE_REFERENCES: Final = 1_000_000
"""References to blocks up to which a trace is simulated as a whole by default."""

_BOUND_POINTS = 64


def usable_policies() -> tuple[str, ...]:
    """Return the names of the eviction policies that can be used, LRU first."""
    with warnings.catch_warnings():  # of those that cannot be used
        warnings.simplefilter("ignore")
        usable = [one.name for one in registry.reports() if one.state is PluginState.OK]
    return (LRU, *sorted(name for name in usable if name != LRU))


def measure(
    trace: PrefixTrace,
    policies: Iterable[str] | None = None,
    *,
    layout: KVLayout | None = None,
    points: int = 16,
    sample_rate: float | None = None,
    seeds: int = 3,
    workers: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> SizingReport:
    """Measure what a pool of any size would reuse of a trace, with each policy.

    LRU, an infinite pool and the clairvoyant bound are exact. Other policies are simulated in
    pools of some sizes, with the prefix tree of the manager.

    Parameters
    ----------
    trace : PrefixTrace
    policies : iterable of str, optional
        Names of eviction policies; by default all that can be used. LRU is always among them.
    layout : KVLayout, optional
        For sizes in bytes.
    points : int, default 16
        Sizes to simulate, at least 2; half as many more for policies that need larger pools.
    sample_rate : float, optional
        The part of the trace to simulate, up to 1; see `draw_sample`. By default all of it up to
        1,000,000 references, and as much of a longer trace.
    seeds : int, default 3
        Samples to draw if `sample_rate` is below 1, at least 2.
    workers : int, default 1
        The most processes for the simulations. With more than 1, the program that calls this needs
        the guard ``if __name__ == "__main__"``, and a policy must be one of an installed plugin.
    on_progress : callable, optional
        Called with the number of simulations that are done, and of all of this round; there are
        at most two rounds.

    Returns
    -------
    SizingReport

    Raises
    ------
    SizingError
        A number is out of range, or the system ended a process of the simulation.
    PluginError
        A policy is unknown or cannot be used.

    Notes
    -----
    With samples, a policy has the hits of LRU and the mean difference of both in the samples,
    scaled so that each sample reuses in an infinite pool what the trace does. The error of its hit
    ratio is twice the standard error over the samples, or the difference of LRU in a sample from
    LRU in the trace if that is more; the largest of all sizes.
    """
    whole_number("points", points, SizingError, least=2)
    whole_number("seeds", seeds, SizingError, least=2)
    whole_number("workers", workers, SizingError, least=1)
    names = dict.fromkeys((LRU, *(usable_policies() if policies is None else policies)))
    for name in names:
        registry.choose(name)
    rate = _rate(trace) if sample_rate is None else sample_rate
    samples = [draw_sample(trace, rate, seed) for seed in range(1 if rate == 1 else seeds)]
    lru = lru_curve(trace)
    sizes = _sizes(trace, lru, points)
    others = [name for name in names if name != LRU]
    rounds = _Rounds(samples, workers, on_progress)
    rounds.run(others, sizes)
    estimate = _Estimate(trace, lru, samples)
    curves = {name: estimate.curve(name, rounds.hits[name]) for name in others}
    # Some policies need more than LRU does for nearly all hits.
    enough = SHARES[-1] * lru.hits[-1]
    late = [name for name, one in curves.items() if one.hits_at(sizes[-1]) < enough]
    rounds.run(late, _between((sizes[-1], trace.block_count), max(points // 2, 2) + 1)[1:-1])
    curves |= {name: estimate.curve(name, rounds.hits[name]) for name in late}
    return SizingReport(
        trace.request_count,
        trace.block_count,
        trace.reference_count,
        trace.block_tokens,
        None if layout is None else layout.bytes_per_token,
        None if layout is None else str(layout),
        trace.reference_count - trace.block_count,
        {LRU: lru} | curves,
        clairvoyant_curve(trace, [0, *sizes, *_between(sizes, _BOUND_POINTS)]),
        sizes,
        rate,
        len(samples),
        reuse_ages(trace),
        block_lifetimes(trace),
    )


def _rate(trace: PrefixTrace) -> float:
    return min(1.0, WHOLE_REFERENCES / trace.reference_count)


def _sizes(trace: PrefixTrace, lru: HitCurve, points: int) -> tuple[int, ...]:
    """Return sizes of equal ratios, from that of a prompt to one that has nearly all hits."""
    most = float(lru.hits[-1])
    first, last = (lru.blocks_for(share * most) or 1 for share in (0.1, 0.99))
    first = max(first, trace.longest)
    return tuple(_between((first, max(first, last)), points))


def _between(sizes: Sequence[int], points: int) -> list[int]:
    """Return at most this many sizes of equal ratios, from the first to the last one."""
    scale: NDArray[np.float64] = np.geomspace(sizes[0], sizes[-1], points)
    return [int(size) for size in np.unique(scale.round())]


class _Rounds:
    """Simulates policies at sizes, one round after the other."""

    def __init__(
        self,
        samples: Sequence[Sample],
        workers: int,
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        self.hits: dict[str, dict[int, list[float]]] = defaultdict(dict)
        """Of each policy at each size, by sample."""
        self._samples = samples
        self._workers = workers
        self._on_progress = on_progress

    def run(self, names: Sequence[str], sizes: Sequence[int]) -> None:
        """Simulate each policy at each size, on each sample."""
        cases = [
            # the slowest first, so that no process waits long for the last one
            Case(name, size, number)
            for size in reversed(sizes)
            for name in names
            for number in range(len(self._samples))
        ]
        for done, (case, hits) in enumerate(simulate(self._samples, cases, self._workers), 1):
            found = self.hits[case.policy].setdefault(case.size, [0.0] * len(self._samples))
            found[case.sample] = hits
            if self._on_progress is not None:
                self._on_progress(done, len(cases))


class _Estimate:
    """Makes the curve of a policy from its hits in samples."""

    def __init__(self, trace: PrefixTrace, lru: HitCurve, samples: Sequence[Sample]) -> None:
        self._trace = trace
        self._lru = lru
        self._reusable = float(lru.hits[-1])
        self._samples = [] if len(samples) == 1 else [_SampleLru(one) for one in samples]

    def curve(self, name: str, found: dict[int, list[float]]) -> HitCurve:
        """Return the curve of a policy, from its hits by size and sample."""
        measured = sorted(found)
        hits = np.array([found[size] for size in measured])
        error = 0.0
        estimate = hits[:, 0]
        if self._samples:
            lru = np.array([self._lru.hits_at(size) for size in measured])
            in_samples = np.array(
                [[one.hits_at(size) for one in self._samples] for size in measured]
            )
            scale = np.array([self._reusable / max(one.infinite, 1) for one in self._samples])
            gains = (hits - in_samples) * scale
            estimate = np.clip(lru + gains.mean(axis=1), 0, self._reusable)
            spread = 2 * gains.std(axis=1, ddof=1) / np.sqrt(len(self._samples))
            bias = np.abs(in_samples * scale - lru[:, None])
            error = float(max(spread.max(), bias.max())) / self._trace.reference_count
        # An empty pool has no hits, and one for all blocks has every hit that there is.
        sizes = np.array([0, *measured, self._trace.block_count], np.int64)
        ends = np.array([0, *estimate, self._reusable])
        kept = np.concatenate([np.diff(sizes) > 0, [True]])
        return HitCurve(name, sizes[kept], ends[kept], self._trace.reference_count, error)


class _SampleLru:
    """The hits of LRU in the whole trace, as one sample tells them."""

    def __init__(self, sample: Sample) -> None:
        self._sample = sample
        self._distances = stack_distances(sample.trace)
        self._requests = sample.trace.requests
        self.infinite = self._hits(np.inf)

    def hits_at(self, size: int) -> float:
        """Return the hits in a pool of this many blocks."""
        return self._hits(max(self._sample.scaled(size), 1))

    def _hits(self, size: float) -> float:
        resident = (self._distances > 0) & (self._distances <= size)
        count = self._sample.trace.request_count
        return self._sample.all_hits(np.bincount(self._requests[resident], minlength=count))
