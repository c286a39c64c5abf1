"""The figures of an engine, as Prometheus and OpenTelemetry read them."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry

from kvpool.integrations._metrics.figures import ENGINE_FIGURES
from kvpool.integrations.metrics import EngineCollector, PoolCollector
from kvpool.integrations.otel import TokenTimes, observe_engine
from kvpool.manager import KVCacheManager
from kvpool.serving import Engine, EngineStats, Request
from tests.support import needs
from tests.support.forked import Child
from tests.support.prometheus import samples

pytestmark = pytest.mark.transformers


@pytest.fixture(scope="session")
def lab() -> Any:
    needs.transformers()
    return importlib.import_module("tests.support.engines")


@pytest.fixture
def reader() -> InMemoryMetricReader:
    return InMemoryMetricReader()


@pytest.fixture
def provider(reader: InMemoryMetricReader) -> Iterator[MeterProvider]:
    provider = MeterProvider([reader])
    yield provider
    provider.shutdown()


@pytest.fixture
def engine(lab: Any, manager: KVCacheManager, provider: MeterProvider) -> Iterator[Engine]:
    """An engine that has answered two requests and left one."""
    made: Engine
    with lab.make_engine(manager, observer=TokenTimes(provider)) as made:
        for _ in range(2):
            made.submit(Request(prompt="hello there, hello", max_tokens=5)).result(60)
        left = made.submit(Request(prompt="go on", max_tokens=3000))
        next(iter(left))
        left.cancel()
        left.result(60)
        yield made


def test_prometheus_reads_the_figures_of_an_engine(engine: Engine, manager: KVCacheManager) -> None:
    registry = CollectorRegistry()
    registry.register(EngineCollector(engine))
    registry.register(PoolCollector(manager))  # their names differ
    found, stats = samples(registry), engine.stats()
    assert found["kvpool_requests_total"] == {
        "stop": 0,
        "length": 2,
        "cancelled": 1,
        "deadline": 0,
        "error": 0,
    }
    states = "running", "loading", "waiting", "preempted"
    assert found["kvpool_active_requests"] == dict.fromkeys(states, 0)
    assert found["kvpool_accepted_requests_total"] == {"": 3}
    assert found["kvpool_completion_tokens_total"] == {"": stats.completion_tokens}
    assert found["kvpool_steps_total"] == {"": stats.steps}
    assert found["kvpool_prompt_tokens_total"] == {
        "cached": stats.cached_tokens,
        "computed": stats.prompt_tokens - stats.cached_tokens,
    }
    assert stats.cached_tokens > 0
    for name, times in (("to_first_token", stats.first_token), ("between", stats.between_tokens)):
        full = "kvpool_time_to_first_token_seconds"
        if name == "between":
            full = "kvpool_time_between_tokens_seconds"
        assert found[f"{full}_count"] == {"": times.count}
        assert found[f"{full}_sum"][""] == pytest.approx(times.total)
        buckets = list(found[f"{full}_bucket"].values())
        assert buckets == sorted(buckets)
        assert buckets[-1] == times.count == sum(times.counts)
        assert [b - a for a, b in zip([0, *buckets], buckets, strict=False)] == list(times.counts)
        assert list(found[f"{full}_bucket"])[:-1] == [str(bound) for bound in times.bounds]


def points(reader: InMemoryMetricReader) -> dict[str, list[Any]]:
    data: Any = reader.get_metrics_data()
    return {
        metric.name: list(metric.data.data_points)
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def test_opentelemetry_reads_the_same_figures(
    engine: Engine, provider: MeterProvider, reader: InMemoryMetricReader
) -> None:
    observe_engine(engine, provider)
    found, stats = points(reader), engine.stats()
    outcomes = {point.attributes["outcome"]: point.value for point in found["kvpool.requests"]}
    assert outcomes == dict(stats.finished)
    sources = {point.attributes["source"]: point.value for point in found["kvpool.prompt"]}
    assert sources["cached"] == stats.cached_tokens
    assert [point.value for point in found["kvpool.completion"]] == [stats.completion_tokens]
    for name, times in (
        ("kvpool.time_to_first_token", stats.first_token),
        ("kvpool.time_between_tokens", stats.between_tokens),
    ):
        (point,) = found[name]
        assert point.count == times.count
        assert point.sum == pytest.approx(times.total)


def test_an_engine_that_is_gone_has_no_metrics(
    lab: Any, manager: KVCacheManager, provider: MeterProvider, reader: InMemoryMetricReader
) -> None:
    registry = CollectorRegistry()
    engine = lab.make_engine(manager)
    registry.register(EngineCollector(engine))
    observe_engine(engine, provider)
    assert samples(registry)
    assert points(reader)
    engine.close()
    del engine
    assert samples(registry) == {}
    assert points(reader) == {}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_an_engine_of_the_parent_process_has_no_metrics(
    engine: Engine, provider: MeterProvider, reader: InMemoryMetricReader
) -> None:
    registry = CollectorRegistry()
    registry.register(EngineCollector(engine))
    observe_engine(engine, provider)
    assert samples(registry)
    assert "kvpool.steps" in points(reader)

    def scrape(say: Callable[[str], None]) -> None:
        say(f"{samples(registry)} {'kvpool.steps' in points(reader)}")

    with Child(scrape) as child:
        assert child.line() == "{} False"
        assert child.wait() == 0


def test_requests_that_load_have_a_state_of_their_own() -> None:
    stats = EngineStats(running=5, loading=2, queued=3, preempted=1)
    (states,) = (
        figure.read(stats) for figure in ENGINE_FIGURES if figure.name == "active_requests"
    )
    assert states == {"running": 3, "loading": 2, "waiting": 2, "preempted": 1}
