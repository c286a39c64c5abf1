"""The figures of a manager, as Prometheus and OpenTelemetry read them."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

from kvpool import CacheKey, KVCacheManager, KVLayout
from kvpool.integrations.metrics import PoolCollector
from kvpool.integrations.otel import observe_pool
from tests.support.managers import MakeManager
from tests.support.prometheus import families, problems, samples

LAYOUT = KVLayout(layers=2, kv_heads=2, head_dim=8, dtype="float32")
SUFFIXES = {"By": "_bytes", "{token}": "_tokens", "1": ""}


def used(make_manager: MakeManager) -> KVCacheManager:
    """Return a manager to which something of every kind has happened."""
    manager = make_manager(1 << 20, layout=LAYOUT)
    for prompt in ([1, 2, 3, 4], [1, 2, 3, 5, 6], [7, 8]):
        entry, left = manager.open_session(prompt)
        tokens = np.ones((2, 2, left, 8), np.float32)
        entry.extend(tokens, tokens)
        manager.close_session(entry, prompt)
    for number in range(3):
        manager.allocate_entry(CacheKey("raw", number), 5000)
    manager.pin(CacheKey("raw", 0))
    manager.get_cache_entry(CacheKey("raw", 1))
    manager.get_cache_entry(CacheKey("raw", "missing"))
    kept = manager.allocate_entry(CacheKey("raw", "kept"), 100).data()
    manager.remove_cache_entry(CacheKey("raw", "kept"))
    manager.remove_cache_entry(CacheKey("raw", 2))
    _LEASES.append(kept)
    return manager


_LEASES: list[Any] = []


@pytest.fixture(autouse=True)
def _no_leases() -> Any:
    yield
    _LEASES.clear()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def test_prometheus_reads_the_figures_of_the_manager(
    make_manager: MakeManager, registry: CollectorRegistry
) -> None:
    manager = used(make_manager)
    registry.register(PoolCollector(manager))
    found, stats = samples(registry), manager.get_stats()
    capacity = stats.total_capacity
    assert found["kvpool_pool_capacity_bytes"] == {"": capacity}
    memory = found["kvpool_pool_memory_bytes"]
    assert memory == {"used": stats.used_memory, "free": capacity - stats.used_memory}
    assert found["kvpool_entries"] == {
        "unpinned": stats.active_entries - 1,
        "pinned": 1,
        "draining": 1,
    }
    assert found["kvpool_evictions_total"]["manual"] == 2
    assert found["kvpool_lookups_total"] == {"hit": stats.hits, "miss": 1}
    assert found["kvpool_allocations_total"] == {"": stats.allocations}
    allocated, freed = (
        found[f"kvpool_pool_{name}_bytes_total"][""] for name in ("allocated", "freed")
    )
    assert allocated - freed == stats.used_memory
    assert found["kvpool_prefix_lookups_total"] == {"": 3}
    assert found["kvpool_prefix_asked_tokens_total"] == {"": 11}
    assert sum(found["kvpool_prefix_reused_tokens_total"].values()) == 3
    assert found["kvpool_prefix_reuse_ratio"][""] == pytest.approx(3 / 11)
    assert found["kvpool_prefix_held_tokens"] == {"": stats.prefix.tokens_held}
    assert sum(found["kvpool_copied_forks_total"].values()) == stats.copied_forks == 1


def test_a_counter_begins_at_zero_with_every_label(
    manager: KVCacheManager, registry: CollectorRegistry
) -> None:
    registry.register(PoolCollector(manager))
    found = samples(registry)
    assert found["kvpool_evictions_total"] == dict.fromkeys(
        ["manual", "lru", "ttl", "policy", "close"], 0
    )
    assert found["kvpool_prefix_reused_tokens_total"] == dict.fromkeys(
        ["continued", "forked", "copied", "loaded"], 0
    )


def test_the_names_are_conventional(make_manager: MakeManager, registry: CollectorRegistry) -> None:
    registry.register(PoolCollector(used(make_manager)))
    text: bytes = generate_latest(registry)
    found = families(text.decode())
    assert len(found) == 19
    assert list(problems(found.values())) == []


def test_what_is_not_conventional_is_found() -> None:
    bad = [
        CounterMetricFamily("kvpool_evictions_ms", "No sentence", 1),
        GaugeMetricFamily("kvpool_entries_total", "Entries.", 1),
        GaugeMetricFamily("kvpool_gauge", "A gauge.", 1),
        GaugeMetricFamily("Entries", "Entries.", 1),
        GaugeMetricFamily("kvpool_token_count", "Tokens.", 1),
    ]
    labelled = GaugeMetricFamily("kvpool_state", "States.", labels=["state"])
    labelled.add_metric(["used"], 1)
    assert [problem.partition(":")[0] for problem in problems([*bad, labelled])] == [
        "kvpool_evictions_ms_total",
        "kvpool_evictions_ms_total",
        "kvpool_entries_total",
        "kvpool_gauge",
        "Entries",
        "kvpool_token_count",
        "kvpool_state",
    ]


def test_two_collectors_of_one_registry_are_refused(
    manager: KVCacheManager, registry: CollectorRegistry
) -> None:
    registry.register(PoolCollector(manager))
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(PoolCollector(manager))


def test_a_manager_that_is_closed_or_gone_has_no_metrics(registry: CollectorRegistry) -> None:
    manager = KVCacheManager(1 << 20, "numpy", receipts=False)
    registry.register(PoolCollector(manager))
    observe_pool(manager, provider := MeterProvider([reader := InMemoryMetricReader()]))
    assert samples(registry)
    assert points(reader)
    manager.close()
    assert samples(registry) == {}
    assert points(reader) == {}
    count = sys.getrefcount(manager)
    assert count == 2, "something keeps the manager alive"
    del manager
    gc.collect()
    assert samples(registry) == {}
    provider.shutdown()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_process_has_no_metrics_of_its_parent() -> None:
    program = (
        "import os; from kvpool import KVCacheManager;"
        "from kvpool.integrations.metrics import PoolCollector;"
        "manager = KVCacheManager(1 << 20, 'numpy'); collector = PoolCollector(manager);"
        "child = os.fork();"
        "found = len(list(collector.collect()));"
        "child or os._exit(found);"
        "print(found, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["19", "0"]


def points(reader: InMemoryMetricReader) -> dict[str, dict[str, float]]:
    """Return the values that OpenTelemetry collects, by the name that Prometheus gives each."""
    found: dict[str, dict[str, float]] = {}
    data: Any = reader.get_metrics_data()
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            assert scope.scope.name == "kvpool"
            for metric in scope.metrics:
                name = metric.name.replace(".", "_") + SUFFIXES[metric.unit]
                name += "_total" if getattr(metric.data, "is_monotonic", False) else ""
                for point in metric.data.data_points:
                    key = ",".join(map(str, point.attributes.values()))
                    found.setdefault(name, {})[key] = point.value
    return found


def test_opentelemetry_has_the_same_metrics(
    make_manager: MakeManager, registry: CollectorRegistry
) -> None:
    manager = used(make_manager)
    registry.register(PoolCollector(manager))
    reader = InMemoryMetricReader()
    observe_pool(manager, provider := MeterProvider([reader]))
    found = {
        name.removesuffix("_ratio") if name.endswith("_ratio") else name: values
        for name, values in samples(registry).items()
    }
    assert points(reader) == found
    provider.shutdown()


def test_without_a_provider_metrics_go_nowhere(manager: KVCacheManager) -> None:
    observe_pool(manager)


@pytest.mark.parametrize(
    ("module", "missing", "extra"),
    [
        ("kvpool.integrations.metrics", "prometheus_client", "kvpool[metrics]"),
        ("kvpool.integrations.otel", "opentelemetry", "kvpool[otel]"),
    ],
)
def test_a_missing_package_is_named_with_the_extra_that_has_it(
    module: str, missing: str, extra: str
) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; import {module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f'install "{extra}"' in done.stderr.strip().splitlines()[-1]
