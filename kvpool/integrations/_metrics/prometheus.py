"""The figures of managers, engines and tiers for Prometheus, by the package prometheus-client."""

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
from kvpool.integrations._metrics.levels import LEVEL_FIGURES, LEVEL_LABELS, readings_of
from kvpool.manager import KVCacheManager
from kvpool.tiers import TierStore

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

__all__ = ["EngineCollector", "PoolCollector", "TierCollector"]

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


class TierCollector(Collector):
    """The figures of the levels of a store of tiers, read when Prometheus asks.

    Parameters
    ----------
    store : TierStore
        The collector does not keep it alive. One that is gone has no metrics.

    Notes
    -----
    Each metric has the labels ``level``, the number of the level from 1 on, and ``url``, the URL
    of its tier without secrets. A scrape asks each tier what it holds, for as long as its budget
    allows.

    Examples
    --------
    >>> from prometheus_client import CollectorRegistry, generate_latest
    >>> from kvpool.tiers import TierStore
    >>> registry = CollectorRegistry()
    >>> with TierStore(["memory:?capacity=1MiB"]) as store:
    ...     registry.register(TierCollector(store))
    ...     text = generate_latest(registry).decode()
    >>> [line for line in text.splitlines() if line.startswith("kvpool_tier_capacity")]
    ['kvpool_tier_capacity_bytes{level="1",url="memory:"} 1.048576e+06']
    """

    def __init__(self, store: TierStore) -> None:
        self._store = weakref.ref(store)

    def describe(self) -> list[Metric]:
        """Return the metrics without values, so that a registry knows their names."""
        return [_family(figure, *LEVEL_LABELS) for figure in LEVEL_FIGURES]

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        readings = readings_of(self._store())
        for figure in LEVEL_FIGURES if readings else ():
            family = _family(figure, *LEVEL_LABELS)
            for reading in readings:
                _fill(family, figure, reading, *reading.labels)
            yield family


def _name(name: str) -> str:
    return f"kvpool_{name.replace('.', '_')}"


def _family(figure: Figure[S], *labels: str) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if figure.kind is Kind.COUNTER else GaugeMetricFamily
    own = [figure.label] if figure.label else []
    return kind(_name(figure.name), figure.text, labels=[*labels, *own], unit=figure.unit)


def _filled(figure: Figure[S], stats: S) -> Metric:
    family = _family(figure)
    _fill(family, figure, stats)
    return family


def _fill(
    family: CounterMetricFamily | GaugeMetricFamily, figure: Figure[S], stats: S, *labels: str
) -> None:
    for label, value in figure.read(stats).items():
        family.add_metric([*labels, label] if figure.label else labels, value)


def _histogram(times: Times) -> HistogramMetricFamily:
    return HistogramMetricFamily(_name(times.name), times.text, unit="seconds")


def _filled_histogram(times: Times, stats: EngineStats) -> Metric:
    found = times.read(stats)
    ends = [*map(str, found.bounds), "+Inf"]
    buckets = list(zip(ends, itertools.accumulate(found.counts), strict=True))
    family = _histogram(times)
    family.add_metric([], buckets, found.total)
    return family
