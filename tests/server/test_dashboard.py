"""The dashboard for Grafana shows metrics that there are."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric

from kvpool.integrations.metrics import TierCollector
from tests.support.docs_pages import DOCS
from tests.support.prometheus import families
from tests.support.served import Served
from tests.support.tier_figures import busy_store

DASHBOARD: dict[str, Any] = json.loads((DOCS / "grafana/kvpool.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
RANGED = r"(kvpool_\w+)\{[^}]*\}(\[\$__rate_interval\])?"
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]


def test_every_panel_says_what_it_shows_and_has_a_place_of_its_own() -> None:
    assert len(PANELS) == 31
    places: set[tuple[int, int]] = set()
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"].endswith(".")
        place = panel["gridPos"]
        cells = {
            (place["x"] + column, place["y"] + row)
            for column in range(place["w"])
            for row in range(place["h"])
        }
        assert not cells & places, panel["title"]
        places |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_every_expression_is_of_the_chosen_server_and_has_its_brackets() -> None:
    for expression in EXPRESSIONS:
        assert expression.count("kvpool_") == expression.count('{instance=~"$instance"')
        for left, right in ("()", "[]", "{}"):
            assert expression.count(left) == expression.count(right), expression


def labels_of(expression: str) -> set[str]:
    grouped = re.findall(r"by \(([^)]*)\)", expression)
    matched = re.findall(r"(\w+)=~?\"", expression)
    return {name.strip() for names in grouped for name in names.split(",")} | set(matched)


def shown_by(served: Served) -> dict[str, Metric]:
    """Return the metrics of a server, with those of tiers, which it has none of."""
    registry = CollectorRegistry()
    with busy_store("memory:?capacity=1MiB") as store:
        store.note_compute(1_000, 1.0)
        registry.register(TierCollector(store))
        tiers: bytes = generate_latest(registry)
    return families(served.get("/metrics").content.decode()) | families(tiers.decode())


@pytest.mark.transformers
def test_every_metric_and_label_that_it_names_is_there(served: Served) -> None:
    hello = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
    assert served.post("/v1/chat/completions", hello).status == 200
    found = shown_by(served)
    labels: dict[str, set[str]] = {}
    for metric in found.values():
        for sample in metric.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    shown = {name for expression in EXPRESSIONS for name in re.findall(r"kvpool_\w+", expression)}
    assert shown <= labels.keys()
    for expression in EXPRESSIONS:
        names = re.findall(r"kvpool_\w+", expression)
        known = set().union(*(labels[name] for name in names))
        assert labels_of(expression) - {"instance"} <= known, expression
    counts = {name for name in labels if name.startswith("kvpool_")}
    unshown = counts - shown - {name for name in counts if name.endswith(("_sum", "_count"))}
    assert unshown == {
        "kvpool_accepted_requests_total",
        "kvpool_lookups_total",
        "kvpool_model_info",
        "kvpool_prefix_lookups_total",
        "kvpool_steps_total",
    }


@pytest.mark.transformers
def test_a_query_for_a_counter_asks_for_its_rate(served: Served) -> None:
    found = shown_by(served)
    counters = {name for name, metric in found.items() if metric.type in {"counter", "histogram"}}
    for expression in EXPRESSIONS:
        for name, brackets in re.findall(
            r"(kvpool_\w+)\{[^}]*\}(\[\$__rate_interval\])?", expression
        ):
            is_counted = name.removesuffix("_bucket") in counters
            assert bool(brackets) == is_counted, expression
