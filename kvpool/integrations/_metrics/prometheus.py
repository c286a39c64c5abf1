"""`PoolCollector`: the figures of a manager for Prometheus, by the package prometheus-client."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kvpool.errors import MissingExtraError
from kvpool.integrations._metrics.figures import FIGURES, Figure, Kind, stats_of
from kvpool.manager import KVCacheManager
from kvpool.stats import PoolStats

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.registry import Collector
except ImportError as error:
    raise MissingExtraError(
        f'metrics for Prometheus need what is not installed: install "kvpool[metrics]" ({error})'
    ) from error

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

__all__ = ["PoolCollector"]


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


def _family(figure: Figure) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if figure.kind is Kind.COUNTER else GaugeMetricFamily
    labels = [figure.label] if figure.label else []
    name = f"kvpool_{figure.name.replace('.', '_')}"
    return kind(name, figure.text, labels=labels, unit=figure.unit)


def _filled(figure: Figure, stats: PoolStats) -> Metric:
    family = _family(figure)
    for label, value in figure.read(stats).items():
        family.add_metric([label] if figure.label else [], value)
    return family
