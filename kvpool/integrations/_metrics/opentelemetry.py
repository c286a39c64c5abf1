"""Metrics for OpenTelemetry."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from kvpool.__about__ import __version__
from kvpool.errors import MissingExtraError
from kvpool.integrations._metrics.figures import (
    ENGINE_FIGURES,
    ENGINE_TIMES,
    FIGURES,
    Figure,
    Kind,
    engine_stats_of,
    stats_of,
)
from kvpool.manager import KVCacheManager

try:
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation, get_meter
except ImportError as error:
    raise MissingExtraError(
        f'metrics for OpenTelemetry need what is not installed: install "kvpool[otel]" ({error})'
    ) from error

if TYPE_CHECKING:  # an engine imports integrations, so that these cannot derive from its classes
    from kvpool.serving import Engine, EngineObserver, FinishReason, Usage
else:
    EngineObserver = object

__all__ = ["TokenTimes", "observe_engine", "observe_pool"]

S = TypeVar("S")

_UNITS = {"bytes": "By", "tokens": "{token}", "ratio": "1", "seconds": "s"}


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
    reference = weakref.ref(manager)
    _observe(FIGURES, lambda: stats_of(reference()), provider)


def observe_engine(engine: Engine, provider: MeterProvider | None = None) -> None:
    """Let OpenTelemetry read the figures of an engine whenever it collects metrics.

    Parameters
    ----------
    engine : Engine
        It is not kept alive. One that is gone has no metrics.
    provider : MeterProvider, optional
        [default: the global one of OpenTelemetry]

    Notes
    -----
    These are the numbers of `kvpool.integrations.metrics.EngineCollector`. Its histograms need the
    times themselves: let the engine tell them to a `TokenTimes`.
    """
    reference = weakref.ref(engine)
    _observe(ENGINE_FIGURES, lambda: engine_stats_of(reference()), provider)


class TokenTimes(EngineObserver):
    """Times of the tokens of an engine, as histograms of OpenTelemetry; an `EngineObserver`.

    Parameters
    ----------
    provider : MeterProvider, optional
        [default: the global one of OpenTelemetry]
    """

    def __init__(self, provider: MeterProvider | None = None) -> None:
        meter = _meter(provider)
        self._first, self._between = (
            meter.create_histogram(f"kvpool.{times.name}", "s", times.text)
            for times in ENGINE_TIMES
        )

    def on_queued(self) -> None:
        """Do nothing."""

    def on_first_token(self, seconds: float) -> None:
        """Record the time to the first token of a request."""
        self._first.record(seconds)

    def on_token(self, seconds: float) -> None:
        """Record the time from one token to the next."""
        self._between.record(seconds)

    def on_preempted(self) -> None:
        """Do nothing."""

    def on_finished(self, reason: FinishReason, usage: Usage) -> None:
        """Do nothing."""


def _meter(provider: MeterProvider | None) -> Meter:
    return get_meter("kvpool", __version__, meter_provider=provider)


def _observe(
    figures: Sequence[Figure[S]], stats: Callable[[], S | None], provider: MeterProvider | None
) -> None:
    meter = _meter(provider)
    for figure in figures:
        is_counter = figure.kind is Kind.COUNTER
        create = meter.create_observable_counter if is_counter else meter.create_observable_gauge
        create(
            f"kvpool.{figure.name}",
            callbacks=[_callback(figure, stats)],
            unit=_UNITS.get(figure.unit, "1"),
            description=figure.text,
        )


def _callback(
    figure: Figure[S], stats: Callable[[], S | None]
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        found = stats()
        values = {} if found is None else figure.read(found)
        for label, value in values.items():
            yield Observation(value, {figure.label: label} if figure.label else None)

    return observe
