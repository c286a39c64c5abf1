"""`kvpool tiers`: what there is, and in which condition it is."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from typer.testing import CliRunner

from kvpool.cli import app
from kvpool.hookspecs import hookimpl
from kvpool.integrations.metrics import TierCollector
from kvpool.tiers import TierFactory, registry
from kvpool.tiers.disk import DiskTier
from kvpool.tiers.memory import MemoryTier
from tests.support import terminal
from tests.support.called import run
from tests.support.http_answers import Answer, AnsweringServer
from tests.support.stored_chunks import IDENTITY, store
from tests.support.tier_figures import LOADED, busy_store

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="locks of files")


def told(*arguments: object, code: int = 0) -> Any:
    done = run("tiers", *map(str, arguments), "--json")
    assert (done.returncode, done.stderr) == (code, "")
    return json.loads(done.stdout)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    store(tmp_path / "kv")
    return tmp_path / "kv"


# -- the kinds -------------------------------------------------------------------------------


def test_the_kinds_of_tiers_and_codecs() -> None:
    document = told()
    kinds = {" ".join(kind["schemes"]): kind for kind in document["kinds"]}
    assert list(kinds) == [
        "az file gs s3",
        "disk",
        "memory",
        "mooncake",
        "redis rediss valkey valkeys",
    ]
    assert "capacity" in kinds["disk"]["options"]
    assert kinds["disk"]["needs"] is None
    assert [codec["name"] for codec in document["codecs"]] == ["aes-gcm", "int4", "int8", "zstd"]
    assert set(document["level_options"]) == {"codec", "budget", "decline"}
    shown = run("tiers").stdout
    assert "an LMDB database" in shown
    assert "durability" not in shown
    assert "durability" in run("tiers", "--options").stdout


def test_what_a_tier_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    done = CliRunner().invoke(app, ["tiers", "--json"])
    kinds = {kind["schemes"][0]: kind["needs"] for kind in json.loads(done.stdout)["kinds"]}
    assert kinds["redis"] == "kvpool[redis]"
    assert kinds["disk"] is None


def test_what_a_codec_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def needs() -> dict[str, str | None]:
        done = CliRunner().invoke(app, ["tiers", "--json"])
        return {one["name"]: one["needs"] for one in json.loads(done.stdout)["codecs"]}

    assert needs() == {"aes-gcm": None, "int4": None, "int8": None, "zstd": None}
    for module in "cryptography", "backports.zstd", "compression.zstd":
        monkeypatch.setitem(sys.modules, module, None)
    assert needs() == {
        "aes-gcm": "kvpool[encrypt]",
        "int4": None,
        "int8": None,
        "zstd": "kvpool[zstd]",
    }


def test_a_folder_of_the_name_of_a_package_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "no_such_package").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not TierFactory(MemoryTier, "", modules=("no_such_package",)).is_installed
    assert not TierFactory(MemoryTier, "", modules=("no_such_package.part",)).is_installed


def test_a_package_that_cannot_be_imported_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "package_that_raises.py").write_text("raise ImportError('no library')")
    monkeypatch.syspath_prepend(tmp_path)
    assert not TierFactory(MemoryTier, "", modules=("package_that_raises.part",)).is_installed


def test_a_plugin_that_is_disabled_is_told() -> None:
    done = terminal.run("tiers", "--json", KVPOOL_DISABLED_TIERS="disk")
    document = json.loads(done.stdout)
    states = {kind["schemes"][0]: kind["state"] for kind in document["kinds"]}
    assert (states["disk"], states["memory"]) == ("disabled", "ok")


# -- the condition of some -------------------------------------------------------------------


def test_the_condition_of_a_tier(path: Path) -> None:
    (tier,) = told(path)["tiers"]
    assert (tier["tier"], tier["state"], tier["trouble"]) == (f"disk:{path}", "reachable", None)
    assert (tier["values"], tier["codec"], tier["probe"]) == (20, "none", None)
    assert 0 < tier["bytes"] < tier["capacity"]
    assert tier["latency_seconds"] > 0
    (tier,) = told(f"disk:{path}?capacity=64MiB&codec=zstd;level=3&budget=2")["tiers"]
    assert (tier["capacity"], tier["codec"]) == (64 << 20, "zstd")


def test_a_probe_measures_and_leaves_nothing(path: Path) -> None:
    (tier,) = told(path, "--probe")["tiers"]
    assert tier["probe"]["nbytes"] == 24 << 20
    assert min(tier["probe"][f"{way}_bandwidth"] for way in ("read", "write")) > 0
    with DiskTier(path, 1 << 30) as opened:
        assert opened.stats().values == 20
    shown = run("tiers", str(path), "--probe", COLUMNS="60").stdout
    assert "iB/s" in shown


def test_a_tier_that_cannot_be_reached_has_exit_code_1(path: Path) -> None:
    pytest.importorskip("redis")
    url = "redis://user:secret@127.0.0.1:1/0"
    first, second = told(path, url, code=1)["tiers"]
    assert (first["state"], second["state"]) == ("reachable", "unreachable")
    assert second["tier"] == "redis://127.0.0.1:1/0"
    assert "refused" in second["trouble"]
    done = run("tiers", url)
    assert done.returncode == 1
    assert "secret" not in done.stdout + done.stderr


def test_a_look_makes_no_store(tmp_path: Path) -> None:
    done = run("tiers", f"disk:{tmp_path}/new")
    assert (done.returncode, done.stdout) == (2, "")
    assert list(tmp_path.iterdir()) == []


class Hanging(MemoryTier):
    """Answers when an event is set."""

    def __init__(self, event: threading.Event) -> None:
        super().__init__()
        self._event = event

    def contains(self, keys: Sequence[bytes], /) -> int:
        self._event.wait()
        return super().contains(keys)


def test_a_tier_that_hangs_is_unreachable_after_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    event = threading.Event()
    factory = TierFactory(open=lambda _: Hanging(event), summary="hangs")
    registry.register("hanging", SimpleNamespace(kvpool_tier=hookimpl(lambda: factory)))
    monkeypatch.setattr("kvpool.cli._tiers.condition.BUDGET", 0.05)
    try:
        done = CliRunner().invoke(app, ["tiers", "hanging://place"])
    finally:
        event.set()
        registry.unregister("hanging")
    assert done.exit_code == 1
    assert "no answer in 0.05 s" in done.stdout


def test_bad_usage(path: Path) -> None:
    for arguments in (("--probe",), ("nowhere",), ("--server", "ftp://host"), (path, "--nothing")):
        done = run("tiers", *map(str, arguments))
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr


# -- a server --------------------------------------------------------------------------------


@pytest.fixture
def metrics(tmp_path: Path) -> Iterator[str]:
    """The address of a server that has loaded tokens from its second tier."""
    with busy_store("memory:", f"disk:{tmp_path}/served") as loading:
        shown = CollectorRegistry()
        shown.register(TierCollector(loading))
        text = generate_latest(shown)
        with AnsweringServer(lambda _: Answer(text)) as server:
            yield server.url


def test_the_tiers_of_a_server(metrics: str, tmp_path: Path) -> None:
    first, second = told("--server", metrics)["served"]
    assert (first["tier"], first["breaker"], first["hits"]) == ("memory:", "closed", 0)
    assert first["misses"]["absent"] > 0
    assert first["writes"]["stored"] == 4
    assert second["tier"] == f"disk:{tmp_path}/served"
    assert (second["hits"], second["tokens"]) == (4, LOADED)
    assert second["nbytes"] == LOADED * IDENTITY.layout.bytes_per_token
    assert second["bandwidth"] > 0
    assert first["load_seconds"] is first["compute_seconds"] is second["compute_seconds"] is None
    assert second["load_seconds"] > 0
    assert 0 < second["hit_ratio"] < 1
    assert second["values"] == 4
    shown = run("tiers", "--server", metrics, COLUMNS="200").stdout
    assert "missed: absent" in shown
    assert "closed" in shown


@pytest.mark.parametrize(
    ("bandwidth", "rate", "text"),
    [
        (50_000, 100, "1,000 tokens take about 200 ms to load and 10.0 s to compute\n"),
        (
            5_000,
            1_000,
            (
                "1,000 tokens take about 2.0 s to load and 1.0 s to compute: most loads are "
                "declined, unless it has decline=no\n"
            ),
        ),
        (
            50_000,
            None,
            (
                "1,000 tokens take about 200 ms to load; the model is not measured yet, "
                "so loads are tried\n"
            ),
        ),
        (
            None,
            100,
            (
                "1,000 tokens take about 10.0 s to compute; no load is measured yet, "
                "so loads are tried\n"
            ),
        ),
        (None, None, "neither loads nor the model are measured yet, so loads are tried\n"),
    ],
)
def test_what_a_load_is_decided_by(bandwidth: int | None, rate: int | None, text: str) -> None:
    labels = '{level="1",url="disk:/kv"}'
    figures = {
        "queued_bytes": 0,
        "loaded_tokens_total": 64,
        "read_bytes_total": 640,
        "bandwidth_bytes_per_second": bandwidth,
        "compute_tokens_per_second": rate,
    }
    known = {name: value for name, value in figures.items() if value is not None}
    shown = [f"kvpool_tier_{name}{labels} {value}" for name, value in known.items()]
    answer = Answer("\n".join([*shown, ""]).encode())
    with AnsweringServer(lambda _: answer) as server:
        done = run("tiers", "--server", server.url, COLUMNS="200").stdout
    assert f"disk:/kv: {text}" in done


def test_a_server_without_tiers() -> None:
    with AnsweringServer(lambda _: Answer(b"kvpool_pool_capacity_bytes 1\n")) as server:
        assert run("tiers", "--server", server.url).stdout == f"{server.url} has no tiers.\n"


def test_a_server_that_does_not_answer() -> None:
    done = run("tiers", "--server", "127.0.0.1:1")
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot read http://127.0.0.1:1/metrics" in done.stderr


@pytest.mark.parametrize("columns", [60, 80])
def test_nothing_is_wider_than_the_terminal(path: Path, metrics: str, columns: int) -> None:
    for arguments in ((), ("--options",), (str(path), "--probe"), ("--server", metrics)):
        done = run("tiers", *arguments, COLUMNS=str(columns))
        assert (done.returncode, done.stderr) == (0, "")
        assert max(map(len, done.stdout.splitlines())) <= columns
        assert "…" not in done.stdout
