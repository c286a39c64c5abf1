"""Metrics for OpenTelemetry."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable

from kvpool.__about__ import __version__
from kvpool.errors import MissingExtraError
from kvpool.integrations._metrics.figures import FIGURES, Figure, Kind, stats_of
from kvpool.manager import KVCacheManager

try:
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation, get_meter
except ImportError as error:
    raise MissingExtraError(
        f'metrics for OpenTelemetry need what is not installed: install "kvpool[otel]" ({error})'
    ) from error

__all__ = ["meter_of", "observe_pool"]

_UNITS = {"bytes": "By", "tokens": "{token}", "ratio": "1", "seconds": "s"}


def meter_of(provider: MeterProvider | None) -> Meter:
    """Return the meter of kvpool from a provider, or from the global one."""
    return get_meter("kvpool", __version__, meter_provider=provider)


def observe_pool(manager: KVCacheManager, provider: MeterProvider | None = None) -> None:
    """Let OpenTelemetry read the figures of a manager whenever it collects metrics.

    Parameters
    ----------
    manager : KVCacheManager
        It is not kept alive. One that is gone or closed has no metrics.
    provider : MeterProvider, optional
        [default: the global one of OpenTelemetry]

    Notes
    -----
    The names are those of `kvpool.integrations.metrics.PoolCollector` in the form of OpenTelemetry:
    ``kvpool.pool.memory`` in bytes is ``kvpool_pool_memory_bytes`` for Prometheus.
    """
    meter, reference = meter_of(provider), weakref.ref(manager)
    for figure in FIGURES:
        is_counter = figure.kind is Kind.COUNTER
        create = meter.create_observable_counter if is_counter else meter.create_observable_gauge
        create(
            f"kvpool.{figure.name}",
            callbacks=[_callback(figure, reference)],
            unit=_UNITS.get(figure.unit, "1"),
            description=figure.text,
        )


def _callback(
    figure: Figure, manager: weakref.ref[KVCacheManager]
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        stats = stats_of(manager())
        values = {} if stats is None else figure.read(stats)
        for label, value in values.items():
            yield Observation(value, {figure.label: label} if figure.label else None)

    return observe
