"""The figures of managers and engines for Prometheus, by the package prometheus-client."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeVar

from kvpool.errors import MissingExtraError
from kvpool.integrations._metrics.figures import (
    ENGINE_FIGURES,
    ENGINE_TIMES,
    FIGURES,
    Figure,
    Kind,
    Times,
    engine_stats_of,
    stats_of,
)
from kvpool.manager import KVCacheManager

try:
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )
    from prometheus_client.registry import Collector
except ImportError as error:
    raise MissingExtraError(
        f'metrics for Prometheus need what is not installed: install "kvpool[metrics]" ({error})'
    ) from error

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from kvpool.serving import Engine, EngineStats

__all__ = ["EngineCollector", "PoolCollector"]

S = TypeVar("S")


class PoolCollector(Collector):
    """The figures of a manager, read from `KVCacheManager.get_stats` when Prometheus asks.

    Parameters
    ----------
    manager : KVCacheManager
        The collector does not keep it alive. One that is gone or closed has no metrics.

    Notes
    -----
    Between two scrapes it costs nothing. A scrape costs one call of `get_stats`.

    Examples
    --------
    >>> from prometheus_client import CollectorRegistry, generate_latest
    >>> from kvpool import KVCacheManager
    >>> registry = CollectorRegistry()
    >>> with KVCacheManager(1 << 20, backend="numpy") as manager:
    ...     registry.register(PoolCollector(manager))
    ...     text = generate_latest(registry).decode()
    >>> [line for line in text.splitlines() if line.startswith("kvpool_pool_capacity")]
    ['kvpool_pool_capacity_bytes 1.048576e+06']
    """

    def __init__(self, manager: KVCacheManager) -> None:
        self._manager = weakref.ref(manager)

    def describe(self) -> list[Metric]:
        """Return the metrics without values, so that a registry knows their names."""
        return [_family(figure) for figure in FIGURES]

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics, of one moment."""
        stats = stats_of(self._manager())
        if stats is not None:
            for figure in FIGURES:
                yield _filled(figure, stats)


class EngineCollector(Collector):
    """The figures of an engine, read from `Engine.stats` when Prometheus asks.

    Parameters
    ----------
    engine : Engine
        The collector does not keep it alive. One that is gone has no metrics.

    Notes
    -----
    Those of the pool that it serves from are those of a `PoolCollector`.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = weakref.ref(engine)

    def describe(self) -> list[Metric]:
        """Return the metrics without values, so that a registry knows their names."""
        families: list[Metric] = [_family(figure) for figure in ENGINE_FIGURES]
        return families + [_histogram(times) for times in ENGINE_TIMES]

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        stats = engine_stats_of(self._engine())
        if stats is None:
            return
        for figure in ENGINE_FIGURES:
            yield _filled(figure, stats)
        for times in ENGINE_TIMES:
            yield _filled_histogram(times, stats)


def _name(name: str) -> str:
    return f"kvpool_{name.replace('.', '_')}"


def _family(figure: Figure[S]) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if figure.kind is Kind.COUNTER else GaugeMetricFamily
    labels = [figure.label] if figure.label else []
    return kind(_name(figure.name), figure.text, labels=labels, unit=figure.unit)


def _filled(figure: Figure[S], stats: S) -> Metric:
    family = _family(figure)
    for label, value in figure.read(stats).items():
        family.add_metric([label] if figure.label else [], value)
    return family


def _histogram(times: Times) -> HistogramMetricFamily:
    return HistogramMetricFamily(_name(times.name), times.text, unit="seconds")


def _filled_histogram(times: Times, stats: EngineStats) -> Metric:
    found = times.read(stats)
    ends = [*map(str, found.bounds), "+Inf"]
    buckets = list(zip(ends, itertools.accumulate(found.counts), strict=True))
    family = _histogram(times)
    family.add_metric([], buckets, found.total)
    return family
