"""`measure`: the curves of all policies over one trace."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

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
from kvpool.sizing._report import SizingReport
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
        Sizes to simulate, at least 2.
    sample_rate : float, optional
        The part of the trace to simulate, up to 1; see `draw_sample`. By default all of it up to
        1,000,000 references, and as much of a longer trace.
    seeds : int, default 3
        Samples to draw if `sample_rate` is below 1, at least 2.
    workers : int, default 1
        The most processes for the simulations. With more than 1, the program that calls this needs
        the guard ``if __name__ == "__main__"``, and a policy must be one of an installed plugin.
    on_progress : callable, optional
        Called with the number of simulations that are done, and of all.

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
    cases = [
        # the slowest first, so that no process waits long for the last one
        Case(name, size, number)
        for size in reversed(sizes)
        for name in others
        for number in range(len(samples))
    ]
    found: dict[str, dict[tuple[int, int], float]] = defaultdict(dict)
    for done, (case, hits) in enumerate(simulate(samples, cases, workers), 1):
        found[case.policy][case.size, case.sample] = hits
        if on_progress is not None:
            on_progress(done, len(cases))
    estimate = _Estimate(trace, lru, sizes, samples)
    curves = {LRU: lru} | {name: estimate.curve(name, found[name]) for name in others}
    return SizingReport(
        trace.request_count,
        trace.block_count,
        trace.reference_count,
        trace.block_tokens,
        None if layout is None else layout.bytes_per_token,
        None if layout is None else str(layout),
        trace.reference_count - trace.block_count,
        curves,
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


class _Estimate:
    """Makes the curve of a policy from its hits in samples."""

    def __init__(
        self, trace: PrefixTrace, lru: HitCurve, sizes: tuple[int, ...], samples: list[Sample]
    ) -> None:
        self._trace = trace
        self._sizes = sizes
        self._exact = len(samples) == 1
        self._lru = np.array([lru.hits_at(size) for size in sizes])
        self._reusable = float(lru.hits[-1])
        if not self._exact:
            in_samples = [_lru_in(sample, sizes) for sample in samples]
            self._sample_lru = np.array([one.at_sizes for one in in_samples])
            self._scale = np.array([self._reusable / max(one.infinite, 1) for one in in_samples])

    def curve(self, name: str, found: dict[tuple[int, int], float]) -> HitCurve:
        """Return the curve of a policy, from its hits by size and sample."""
        samples = 1 + max(sample for _, sample in found)
        hits = np.array([[found[size, one] for size in self._sizes] for one in range(samples)])
        error = 0.0
        if self._exact:
            (estimate,) = hits
        else:
            gains = (hits - self._sample_lru) * self._scale[:, None]
            estimate = np.clip(self._lru + gains.mean(axis=0), 0, self._reusable)
            spread = 2 * gains.std(axis=0, ddof=1) / np.sqrt(samples)
            bias = np.abs(self._sample_lru * self._scale[:, None] - self._lru)
            error = float(max(spread.max(), bias.max())) / self._trace.reference_count
        # An empty pool has no hits, and one for all blocks has every hit that there is.
        sizes = np.array([0, *self._sizes, self._trace.block_count], np.int64)
        ends = np.array([0, *estimate, self._reusable])
        kept = np.concatenate([np.diff(sizes) > 0, [True]])
        return HitCurve(name, sizes[kept], ends[kept], self._trace.reference_count, error)


class _SampleLru(NamedTuple):
    """The hits of LRU in the whole trace, as one sample tells them."""

    at_sizes: list[float]
    infinite: float


def _lru_in(sample: Sample, sizes: tuple[int, ...]) -> _SampleLru:
    distances = stack_distances(sample.trace)
    requests = sample.trace.requests

    def hits(size: float) -> float:
        resident = (distances > 0) & (distances <= size)
        by_request = np.bincount(requests[resident], minlength=sample.trace.request_count)
        return sample.all_hits(by_request)

    return _SampleLru([hits(max(sample.scaled(size), 1)) for size in sizes], hits(np.inf))
