"""Metrics for OpenTelemetry."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias, TypeVar

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
from kvpool.integrations._metrics.levels import (
    LEVEL_FIGURES,
    LEVEL_LABELS,
    LevelReading,
    readings_of,
)
from kvpool.manager import KVCacheManager
from kvpool.tiers import TierStore

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

__all__ = ["TokenTimes", "observe_engine", "observe_pool", "observe_tiers"]

S = TypeVar("S")

_UNITS = {
    "bytes": "By",
    "bytes_per_second": "By/s",
    "ratio": "1",
    "seconds": "s",
    "tokens": "{token}",
    "tokens_per_second": "{token}/s",
}


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
    _observe(FIGURES, lambda: _alone(stats_of(reference())), provider)


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
    _observe(ENGINE_FIGURES, lambda: _alone(engine_stats_of(reference())), provider)


def observe_tiers(store: TierStore, provider: MeterProvider | None = None) -> None:
    """Let OpenTelemetry read the figures of the levels of a store whenever it collects metrics.

    Parameters
    ----------
    store : TierStore
        It is not kept alive. One that is gone has no metrics.
    provider : MeterProvider, optional
        [default: the global one of OpenTelemetry]

    Notes
    -----
    These are the metrics of `kvpool.integrations.metrics.TierCollector`, with its labels ``level``
    and ``url`` as attributes.
    """
    reference = weakref.ref(store)

    def levels() -> list[tuple[LevelReading, dict[str, str]]]:
        return [
            (reading, dict(zip(LEVEL_LABELS, reading.labels, strict=True)))
            for reading in readings_of(reference())
        ]

    _observe(LEVEL_FIGURES, levels, provider)


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


_Read: TypeAlias = "Callable[[], Sequence[tuple[S, Mapping[str, str]]]]"
"""Returns the stats of all that a figure is read from, each with the attributes that name it."""


def _alone(stats: S | None) -> list[tuple[S, Mapping[str, str]]]:
    """Return what there is one of, which needs no name."""
    return [] if stats is None else [(stats, {})]


def _observe(figures: Sequence[Figure[S]], read: _Read[S], provider: MeterProvider | None) -> None:
    meter = _meter(provider)
    for figure in figures:
        is_counter = figure.kind is Kind.COUNTER
        create = meter.create_observable_counter if is_counter else meter.create_observable_gauge
        create(
            f"kvpool.{figure.name}",
            callbacks=[_callback(figure, read)],
            unit=_UNITS.get(figure.unit, "1"),
            description=figure.text,
        )


def _callback(
    figure: Figure[S], read: _Read[S]
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        for stats, attributes in read():
            for label, value in figure.read(stats).items():
                own = {figure.label: label} if figure.label else {}
                yield Observation(value, {**attributes, **own} or None)

    return observe
