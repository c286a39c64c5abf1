"""The example of `docs/writing-a-tier.md` keeps the contract, and the pages name what there is."""

from __future__ import annotations

import functools
import re
from typing import Any

import yaml
from prometheus_client import CollectorRegistry

from kvpool.integrations.metrics import TierCollector
from kvpool.testing import TierSuite
from kvpool.tiers import LEVEL_OPTIONS, Tier, TierStore, codec_registry, registry
from tests.support.docs_pages import DOCS, blocks, run_python

TEXT = (DOCS / "tiers.md").read_text(encoding="utf-8")


@functools.cache
def page_names() -> dict[str, Any]:
    """Return what the Python blocks of the page define."""
    page, names = DOCS / "writing-a-tier.md", dict[str, Any]()
    for block in blocks(page):
        if block.language == "python":
            run_python(page, block, names)
    return names


class TestTierOfThePage(TierSuite):
    is_durable = False

    def create_tier(self) -> Tier:
        tier: Tier = page_names()["kvpool_tier"]().open("dict:")
        return tier

    def create_small(self) -> Tier:
        tier: Tier = page_names()["kvpool_tier"]().open("dict:", capacity="4MiB")
        return tier


def test_the_blocks_of_the_page_run() -> None:
    names: dict[str, Any] = {}
    python = [block for block in blocks(DOCS / "tiers.md") if block.language == "python"]
    assert len(python) == 2
    for block in python:
        run_python(DOCS / "tiers.md", block, names)


def test_the_page_names_each_scheme_and_codec() -> None:
    others = {"redis", "rediss", "valkey"}  # named together with valkeys
    assert {name for name in registry.names() if f"{name}:" not in TEXT} <= others
    assert all(f"`{name}`" in TEXT for name in codec_registry.names())


def test_the_page_has_each_option_with_its_meaning() -> None:
    found: dict[str, dict[str, str]] = {}
    owners: list[str] = []
    for owner, option, meaning in re.findall(
        r"^\| (.*?) ?\| `(\w+)` \| (.+) \|$", TEXT, re.MULTILINE
    ):
        owners = re.findall(r"[\w+-]+", owner) or owners
        for name in owners:
            found.setdefault(name, {})[option] = meaning
    assert found.pop("any") == LEVEL_OPTIONS
    reports = {report.name: report.plugin for report in registry.reports()}
    assert found == {name: dict(plugin.options) for name, plugin in reports.items() if plugin}


def test_the_page_names_each_metric() -> None:
    shown = CollectorRegistry()
    with TierStore(["memory:"]) as store:
        collector = TierCollector(store)
        shown.register(collector)
        names = {
            f"{metric.name}_total" if metric.type == "counter" else metric.name
            for metric in collector.describe()
        }
    assert set(re.findall(r"kvpool_tier_\w+", TEXT)) == names


def test_the_compose_file_starts_a_cluster() -> None:
    text = (DOCS / "compose/valkey-cluster.yml").read_text(encoding="utf-8")
    services = yaml.safe_load(text)["services"]
    assert set(services) == {"node1", "node2", "node3", "create"}
    for number in (1, 2, 3):
        node = services[f"node{number}"]
        assert f"--port 700{number} $$OPTIONS" in node["command"][-1]
        assert "--cluster-enabled yes" in node["environment"]["OPTIONS"]
        assert f"127.0.0.1:700{number}" in services["create"]["command"]
