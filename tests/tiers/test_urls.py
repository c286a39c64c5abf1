"""URLs of tiers: what they name, and what is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kvpool.errors import InvalidTierError, UnknownPluginError
from kvpool.hookspecs import hookimpl
from kvpool.tiers import Tier, TierFactory, open_tier, path_of, registry, split_url
from kvpool.tiers.memory import MemoryTier


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("memory:", ("memory", "memory:", {})),
        ("disk:/var/kv?capacity=1GiB", ("disk", "disk:/var/kv", {"capacity": "1GiB"})),
        ("disk:a/b", ("disk", "disk:a/b", {})),
        ("disk:///var/kv", ("disk", "disk:///var/kv", {})),
        (
            "redis://u:p@h:1/0?ttl=5&x=a%20b",
            ("redis", "redis://u:p@h:1/0", {"ttl": "5", "x": "a b"}),
        ),
        ("s3://bucket/a/b?empty=", ("s3", "s3://bucket/a/b", {"empty": ""})),
    ],
)
def test_a_url_is_a_scheme_a_place_and_options(url: str, parts: object) -> None:
    assert split_url(url) == parts


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "no scheme"),
        ("/var/kv", "no scheme"),
        ("disk:/kv?capacity", "not a URL"),
        ("disk:/kv?a=1&a=2", "twice"),
        ("redis://[::1/0", "not a URL"),
        (None, "named by a URL"),
        (Path("/kv"), "named by a URL"),
    ],
)
def test_what_is_not_a_url_is_refused(url: Any, reason: str) -> None:
    with pytest.raises(InvalidTierError, match=reason):
        split_url(url)


@pytest.mark.parametrize(
    "url",
    ["://user:hunter2@host?a=1&a=2", "redis://user:hunter2@host/0?ttl", "x://u:hunter2@[::1?a=1"],
)
def test_an_error_does_not_show_a_password(url: str) -> None:
    with pytest.raises(InvalidTierError) as caught:
        open_tier(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("disk:/var/kv", "/var/kv"),
        ("disk:///var/kv", "/var/kv"),
        ("disk:some/kv", "some/kv"),
        ("disk:/with%20space/100%25", "/with space/100%"),
        ("disk:~/kv", Path("~/kv").expanduser()),
    ],
)
def test_paths(url: str, path: str) -> None:
    assert path_of(url) == Path(path)


@pytest.mark.parametrize(("url", "reason"), [("disk://var/kv", "'var'"), ("disk:", "no path")])
def test_what_names_no_path_is_refused(url: str, reason: str) -> None:
    with pytest.raises(InvalidTierError, match=reason):
        path_of(url)


def test_a_scheme_that_no_plugin_has() -> None:
    with pytest.raises(UnknownPluginError, match=r"unknown tier 'ftp'; available: .*memory"):
        open_tier("ftp://host/path")


def test_a_plugin_gets_the_place_and_the_options() -> None:
    seen: list[object] = []

    def open_it(url: str, **options: str) -> Tier:
        seen.append((url, options))
        return MemoryTier()

    @hookimpl
    def kvpool_tier() -> TierFactory:
        return TierFactory(open_it, "for a test", {"ttl": "seconds"})

    registry.register("test-tier", SimpleNamespace(kvpool_tier=kvpool_tier))
    try:
        open_tier("test-tier://host/a?ttl=5").close()
        with pytest.raises(InvalidTierError, match="no option 'speed'; its options: ttl"):
            open_tier("test-tier://host/a?speed=5")
    finally:
        registry.unregister("test-tier")
    assert seen == [("test-tier://host/a", {"ttl": "5"})]


def test_a_tier_without_the_option() -> None:
    with pytest.raises(InvalidTierError, match="no option 'ttl'; its options: capacity"):
        open_tier("memory:?ttl=5")
