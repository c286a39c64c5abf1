"""The sinks that kvpool ships, and how they are chosen."""

from __future__ import annotations

import logging
import sys
import types
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor

from kvpool import CacheKey
from kvpool.errors import PluginDisabledError, UnknownPluginError
from kvpool.hookspecs import hookimpl
from kvpool.ledger.ed25519 import generate_key_files
from kvpool.receipts import (
    LedgerSink,
    LoggingSink,
    MemorySink,
    ReceiptEmitter,
    Receipts,
    SinkFactory,
    create_sink,
    open_emitter,
    registry,
    verify,
)
from kvpool.receipts.errors import LedgerOptionError, MissingExtraError
from tests.support.recorder import Recorder

OURS = ("ledger", "logging", "memory", "otel")
VARIABLES = (
    "KVPOOL_RECEIPTS",
    "KVPOOL_DISABLED_SINKS",
    "KVPOOL_LEDGER",
    "KVPOOL_LEDGER_KEY",
    "KVPOOL_LEDGER_REDACT",
)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def some_evictions(recorder: Recorder) -> None:
    for name in "cab":
        recorder.make(name, 1000)
    kept = recorder.make("leased", 1000).data()
    recorder.remove("leased")
    del kept
    recorder.manager.get_cache_entry(CacheKey("chat", "c"))
    recorder.manager.evict_lru_entries((1 << 16) - 1024)
    recorder.snapshot()


# -- logging -----------------------------------------------------------------------------------


def test_logging_has_a_line_for_people_and_fields_for_machines(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="kvpool.receipts")
    memory = MemorySink()
    some_evictions(Recorder([LoggingSink(), memory]))
    assert [record.getMessage() for record in caplog.records] == [
        "evicted chat/leased (manual): 0 bytes freed, 1,024 pending; 4,096 of 65,536 bytes used",
        "evicted chat/a (lru): 1,024 bytes freed; 2,048 of 65,536 bytes used",
        "evicted chat/b (lru): 1,024 bytes freed; 1,024 of 65,536 bytes used",
        caplog.records[3].getMessage(),
        "pool: 1,024 of 65,536 bytes used, 1 sessions, 3 evictions so far",
    ]
    assert caplog.records[3].getMessage().startswith("evicted 2 sessions in ")
    for record, receipt in zip(caplog.records, memory.receipts, strict=True):
        assert (record.name, record.levelname) == ("kvpool.receipts", "INFO")
        for name, value in msgspec.to_builtins(receipt).items():
            assert getattr(record, name) == value


def test_logging_below_its_level_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="kvpool.receipts")
    recorder = Recorder([LoggingSink()])
    some_evictions(recorder)
    assert not caplog.records
    assert recorder.stream.failures == {"logging": 0}


class CountingHandler(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.flushes = 0

    def emit(self, record: logging.LogRecord) -> None:
        raise AssertionError(record)

    def flush(self) -> None:
        self.flushes += 1


def test_logging_flushes_the_handlers_that_it_reaches() -> None:
    handlers = [CountingHandler() for _ in range(3)]
    loggers = [logging.getLogger(name) for name in ("test-a", "test-a.b", "test-a.b.c")]
    for logger, handler in zip(loggers, handlers, strict=True):
        logger.addHandler(handler)
    loggers[1].propagate = False
    LoggingSink("test-a.b.c").flush()
    assert [handler.flushes for handler in handlers] == [0, 1, 1]


# -- memory ------------------------------------------------------------------------------------


def test_memory_keeps_the_last_ones() -> None:
    sink = MemorySink(limit=2)
    some_evictions(Recorder([sink]))
    assert [receipt.sequence for receipt in sink.receipts] == [3, 4]


# -- OpenTelemetry -----------------------------------------------------------------------------


def test_otel_emits_events() -> None:
    untyped: Any = InMemoryLogRecordExporter
    exporter = untyped()
    provider = LoggerProvider()
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    memory = MemorySink()
    recorder = Recorder([registry.choose("otel").create(provider=provider), memory])
    some_evictions(recorder)
    recorder.stream.flush()
    recorder.stream.close()
    assert recorder.stream.failures == {"otel": 0, "memory": 0}
    logs = exporter.get_finished_logs()
    assert len(logs) == len(memory.receipts) == 5
    for log, receipt in zip(logs, memory.receipts, strict=True):
        record, fields = log.log_record, msgspec.to_builtins(receipt)
        assert record.event_name == f"kvpool.{receipt.event}"
        assert record.attributes == {f"kvpool.{name}": value for name, value in fields.items()}
        assert record.timestamp is not None
        seconds, rest = divmod(record.timestamp, 10**9)
        moment = datetime.fromisoformat(receipt.timestamp)
        assert (seconds, rest) == (int(moment.timestamp()), moment.microsecond * 1000)
        assert log.instrumentation_scope is not None
        assert log.instrumentation_scope.name == "kvpool.receipts"
    assert str(logs[0].log_record.body).startswith("evicted chat/leased (manual)")
    provider.shutdown()


@pytest.mark.parametrize(
    ("name", "missing", "extra"),
    [("otel", "opentelemetry", "kvpool[otel]"), ("ledger", "cryptography", "kvpool[sign]")],
)
def test_missing_extra_is_named(
    name: str, missing: str, extra: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in [module for module in sys.modules if module.split(".")[0] == missing]:
        monkeypatch.setitem(sys.modules, module, None)
    for module in ("kvpool.receipts.sinks.otel_events", "kvpool.ledger.ed25519"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    options = {"path": tmp_path / "ledger", "key": tmp_path / "key"} if name == "ledger" else {}
    with pytest.raises(MissingExtraError, match="install") as caught:
        create_sink(name, **options)
    assert extra in str(caught.value)
    assert isinstance(caught.value, ImportError)
    assert not list(tmp_path.iterdir())


# -- choice ------------------------------------------------------------------------------------


def test_our_sinks_can_be_chosen_by_name() -> None:
    assert set(OURS) <= set(registry.names())
    for name in OURS:
        factory = registry.choose(name)
        assert isinstance(factory, SinkFactory)
        assert factory.summary


def sinks_of(receipts: Receipts) -> list[str]:
    emitter = open_emitter(receipts)
    assert isinstance(emitter, ReceiptEmitter)
    emitter.stream.close()
    return [sink.name for sink in emitter.stream.sinks]


def test_argument_chooses(tmp_path: Path) -> None:
    assert sinks_of(receipts=True) == ["logging"]
    assert sinks_of("memory") == ["memory"]
    assert sinks_of(MemorySink()) == ["memory"]
    path = tmp_path / "a.jsonl"
    assert sinks_of(["memory", LedgerSink(path), "logging"]) == [
        "memory",
        f"ledger {path}",
        "logging",
    ]
    assert open_emitter(receipts=False) is None


def test_environment_turns_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVPOOL_RECEIPTS", " 0 ")
    assert open_emitter(receipts=True) is None
    assert open_emitter(MemorySink()) is None


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("", ["logging"]),
        ("1", ["logging"]),
        ("memory", ["memory"]),
        ("memory, otel", ["memory", "otel"]),
    ],
)
def test_environment_names_sinks(
    value: str, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVPOOL_RECEIPTS", value)
    assert sinks_of(receipts=True) == names
    assert sinks_of("memory") == ["memory"]  # an argument that names one is not overruled


def test_unknown_sink_is_refused_and_others_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    monkeypatch.setenv("KVPOOL_LEDGER", str(path))
    with pytest.raises(UnknownPluginError, match=r"'lodger'; available: ledger, logging"):
        open_emitter(["ledger", "lodger"])
    assert verify(path).ok  # it was closed, and so sealed
    monkeypatch.setenv("KVPOOL_DISABLED_SINKS", "memory")
    with pytest.raises(PluginDisabledError, match="'memory'"):
        open_emitter("memory")


def test_ledger_is_configured_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(LedgerOptionError, match="KVPOOL_LEDGER"):
        open_emitter("ledger")
    private, public = tmp_path / "key", tmp_path / "key.pub"
    generate_key_files(private)
    path = tmp_path / "a.jsonl"
    monkeypatch.setenv("KVPOOL_LEDGER", str(path))
    monkeypatch.setenv("KVPOOL_LEDGER_KEY", str(private))
    monkeypatch.setenv("KVPOOL_LEDGER_REDACT", "1")
    emitter = open_emitter("ledger")
    assert emitter is not None
    emitter.stream.close()
    assert verify(path, public_key=public).signatures == 1
    assert path.with_name("a.jsonl.salt").exists()


def test_sink_of_another_distribution() -> None:
    @hookimpl
    def kvpool_receipt_sink() -> SinkFactory:
        return SinkFactory(create=lambda: MemorySink(limit=3), summary="a sink of a test")

    plugin = types.SimpleNamespace(kvpool_receipt_sink=kvpool_receipt_sink)
    registry.register("of-a-test", plugin)
    try:
        emitter = open_emitter("of-a-test")
        assert emitter is not None
        (sink,) = emitter.stream.sinks
        assert isinstance(sink, MemorySink)
        assert sink.receipts.maxlen == 3
    finally:
        registry.unregister("of-a-test")
