"""The figures of tiers, as Prometheus and OpenTelemetry read them."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest

from kvpool.errors import TierError
from kvpool.integrations.metrics import TierCollector
from kvpool.integrations.otel import observe_tiers
from kvpool.prefix import token_bytes
from kvpool.tiers import Level, TierStats, TierStore
from kvpool.tiers.memory import MemoryTier
from tests.support.forked import Child
from tests.support.prometheus import families, problems, samples
from tests.support.stored_chunks import IDENTITY
from tests.support.tier_figures import LOADED, busy_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TierStore]:
    """A store of two levels, the second of which had what was asked for."""
    with busy_store("memory:?capacity=1MiB", f"disk:{tmp_path}/kv") as made:
        yield made


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def test_prometheus_reads_the_figures_of_each_level(
    store: TierStore, registry: CollectorRegistry, tmp_path: Path
) -> None:
    registry.register(TierCollector(store))
    found = samples(registry)
    path = f"disk:{tmp_path}/kv"
    first, second = "1,memory:", f"2,{path}"
    assert found["kvpool_tier_lookups_total"][f"2,hit,{path}"] == 4
    assert found["kvpool_tier_lookups_total"]["1,hit,memory:"] == 0
    assert found["kvpool_tier_lookups_total"]["1,absent,memory:"] > 0
    assert found["kvpool_tier_loaded_tokens_total"] == {first: 0, second: LOADED}
    loaded = LOADED * IDENTITY.layout.bytes_per_token
    assert found["kvpool_tier_read_bytes_total"] == {first: 0, second: loaded}
    assert found["kvpool_tier_load_seconds_total"][second] > 0
    assert found["kvpool_tier_writes_total"]["1,stored,memory:"] == 4  # handed up
    assert found["kvpool_tier_writes_total"][f"2,dropped,{path}"] == 0
    assert found["kvpool_tier_written_bytes_total"][first] > loaded
    assert found["kvpool_tier_queued_bytes"] == {first: 0, second: 0}
    assert found["kvpool_tier_values"] == {first: 4, second: 4}
    assert found["kvpool_tier_capacity_bytes"] == {first: 1 << 20, second: 10 << 30}
    assert found["kvpool_tier_used_bytes"][first] > loaded
    assert found["kvpool_tier_evictions_total"] == {first: 0, second: 0}
    assert found["kvpool_tier_breaker"] == {
        f"{level},{state},{url}": state == "closed"
        for level, url in ((1, "memory:"), (2, path))
        for state in ("closed", "open", "half-open")
    }


class Failing(MemoryTier):
    """Does not answer."""

    def contains(self, keys: Sequence[bytes], /) -> int:
        raise TierError(f"no answer to {len(keys)} keys")

    def stats(self) -> TierStats:
        raise TierError("no answer")


def test_a_tier_that_fails_is_seen(registry: CollectorRegistry) -> None:
    with TierStore([Level(Failing(), budget=None)]) as store:
        registry.register(TierCollector(store))
        for _ in range(5):
            store.available(IDENTITY, token_bytes(list(range(64))))
        found = samples(registry)
    assert found["kvpool_tier_breaker"] == {
        "1,closed,memory:": 0,
        "1,open,memory:": 1,
        "1,half-open,memory:": 0,
    }
    calls = found["kvpool_tier_failed_calls_total"]
    assert (calls["1,error,memory:"], calls["1,not_made,memory:"]) == (3, 2)
    assert not {"kvpool_tier_values", "kvpool_tier_used_bytes"} & found.keys()


def test_the_names_are_conventional(store: TierStore, registry: CollectorRegistry) -> None:
    registry.register(TierCollector(store))
    text: bytes = generate_latest(registry)
    found = families(text.decode())
    assert len(found) == 15
    assert list(problems(found.values())) == []


def test_a_password_is_in_no_label(registry: CollectorRegistry) -> None:
    class Secret(MemoryTier):
        @property
        def name(self) -> str:
            return "redis://host:6379/0"

    with TierStore([Secret()]) as store:
        registry.register(TierCollector(store))
        assert list(samples(registry)["kvpool_tier_queued_bytes"]) == ["1,redis://host:6379/0"]


def test_a_store_that_is_gone_has_no_metrics(registry: CollectorRegistry) -> None:
    store = TierStore(["memory:"])
    registry.register(TierCollector(store))
    store.close()
    assert samples(registry)["kvpool_tier_queued_bytes"] == {"1,memory:": 0}
    assert "kvpool_tier_values" not in samples(registry)
    del store
    gc.collect()
    assert samples(registry) == {}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_a_child_process_has_no_metrics_of_its_parent(registry: CollectorRegistry) -> None:
    with TierStore(["memory:"]) as store:
        registry.register(TierCollector(store))

        def look(say: Callable[[str], None]) -> None:
            say(str(samples(registry)))

        with Child(look) as child:
            assert child.line() == "{}"


SUFFIXES = {
    "By": "_bytes",
    "By/s": "_bytes_per_second",
    "{token}": "_tokens",
    "{token}/s": "_tokens_per_second",
    "s": "_seconds",
    "1": "",
}


def points(reader: InMemoryMetricReader) -> dict[str, dict[str, float]]:
    """Return the values that OpenTelemetry collects, by the name that Prometheus gives each."""
    found: dict[str, dict[str, float]] = {}
    data: Any = reader.get_metrics_data()
    for metric in data.resource_metrics[0].scope_metrics[0].metrics:
        name = metric.name.replace(".", "_") + SUFFIXES[metric.unit]
        name += "_total" if getattr(metric.data, "is_monotonic", False) else ""
        for point in metric.data.data_points:
            key = ",".join(str(value) for _, value in sorted(point.attributes.items()))
            found.setdefault(name, {})[key] = point.value
    return found


def test_opentelemetry_has_the_same_metrics(store: TierStore, registry: CollectorRegistry) -> None:
    registry.register(TierCollector(store))
    reader = InMemoryMetricReader()
    observe_tiers(store, provider := MeterProvider([reader]))
    store.note_compute(100, 2.0)
    found = samples(registry)
    assert set(found["kvpool_tier_compute_tokens_per_second"].values()) == {50}
    assert points(reader) == found
    provider.shutdown()
