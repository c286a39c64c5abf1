"""The receipts: round trips, schema, versions."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, get_args

import msgspec
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from kvpool import EvictionReason, KVPoolError
from kvpool.receipts import (
    SCHEMA_VERSION,
    KvEvictionBatchReceipt,
    KvEvictionReceipt,
    KvPoolSnapshotReceipt,
    KvTierEvictionReceipt,
    KvTierLoadReceipt,
    KvTierRefusalReceipt,
    Receipt,
    ReceiptRecord,
    decode_receipt,
    encode_receipt,
)
from kvpool.receipts.errors import InvalidReceiptError, SchemaVersionError
from kvpool.receipts.schema import schema_text, shipped_schema_text
from kvpool.receipts.types import timestamp

counts = st.integers(0, 2**53 - 1)
shares = st.floats(0, 1) | st.sampled_from([0, 1, 0.0, 1.0, 1e-6, 5e-324, 1 - 2**-53])
texts = st.text(st.characters(exclude_categories=["Cs"]))
common: dict[str, Any] = {
    "pool_id": st.text("0123456789abcdef", min_size=32, max_size=32),
    "sequence": counts,
    "timestamp": st.datetimes(timezones=st.just(UTC)).map(timestamp),
    "pool_total": counts,
    "bytes_allocated_total": counts,
    "bytes_freed_total": counts,
    "bytes_evicted_total": counts,
    "bytes_moved_total": counts,
    "schema_version": st.just(SCHEMA_VERSION),
}
evictions = st.builds(
    KvEvictionReceipt,
    **common,
    session_id=texts,
    session_number=st.integers(1, 2**53 - 1),
    bytes_freed=counts,
    bytes_pending=counts,
    pool_used_before=counts,
    pool_used_after=counts,
    fragmentation_before=shares,
    fragmentation_after=shares,
    sessions_before=counts,
    sessions_after=counts,
    eviction_reason=st.sampled_from(EvictionReason),
)
batches = st.builds(
    KvEvictionBatchReceipt,
    **common,
    count=st.integers(1, 2**53 - 1),
    total_bytes_freed=counts,
    pool_used_before=counts,
    pool_used_after=counts,
    fragmentation_before=shares,
    fragmentation_after=shares,
    duration_ms=st.floats(0, 2**53 - 1),
)
snapshots = st.builds(
    KvPoolSnapshotReceipt,
    **common,
    pool_used=counts,
    utilization=shares,
    fragmentation=shares,
    active_sessions=counts,
    total_sessions_created=counts,
    total_evictions=counts,
    cache_hits=counts,
    cache_misses=counts,
)
beyond = {**common, "tier": texts.filter(bool)}
loads = st.builds(
    KvTierLoadReceipt,
    **beyond,
    session_id=texts,
    session_number=st.integers(1, 2**53 - 1),
    tokens=st.integers(1, 2**53 - 1),
    bytes_loaded=st.integers(1, 2**53 - 1),
    duration_ms=st.floats(0, 2**53 - 1),
)
refusals = st.builds(
    KvTierRefusalReceipt,
    **beyond,
    session_id=texts,
    session_number=st.integers(1, 2**53 - 1),
    chunk=texts.filter(bool),
    tokens=st.integers(1, 2**53 - 1),
    refusal_reason=texts.filter(bool),
)
tier_evictions = st.builds(KvTierEvictionReceipt, **beyond, count=st.integers(1, 2**53 - 1))
receipts = st.one_of(evictions, batches, snapshots, loads, refusals, tier_evictions)


def round_trip(receipt: Receipt) -> None:
    raw = encode_receipt(receipt)
    record = decode_receipt(raw)
    assert record == ReceiptRecord(receipt)
    assert encode_receipt(record) == raw
    assert raw == rfc8785.dumps(msgspec.to_builtins(receipt))
    assert json.loads(raw)["event"] == record.receipt.event


@given(evictions)
def test_eviction_receipt_roundtrip(receipt: KvEvictionReceipt) -> None:
    round_trip(receipt)
    assert receipt.event == "kv_eviction"


@given(batches)
def test_batch_receipt_roundtrip(receipt: KvEvictionBatchReceipt) -> None:
    round_trip(receipt)
    assert receipt.event == "kv_eviction_batch"


@given(snapshots)
def test_snapshot_receipt_roundtrip(receipt: KvPoolSnapshotReceipt) -> None:
    round_trip(receipt)
    assert receipt.event == "kv_pool_snapshot"


@given(loads | refusals | tier_evictions)
def test_receipts_of_tiers_roundtrip(
    receipt: KvTierLoadReceipt | KvTierRefusalReceipt | KvTierEvictionReceipt,
) -> None:
    round_trip(receipt)
    assert receipt.event.startswith("kv_tier_")


@pytest.mark.parametrize("version", ["1.0.0", "1.9.0"])
def test_a_version_without_tiers_has_no_receipt_of_them(version: str) -> None:
    fields = {**FIELDS, "tier": "memory:", "count": 3, "event": "kv_tier_eviction"}
    assert decode_receipt(json.dumps(fields).encode()).receipt.event == "kv_tier_eviction"
    with pytest.raises(SchemaVersionError, match=r"has no kv_tier_eviction: that is of 2\.0\.0"):
        decode_receipt(json.dumps({**fields, "schema_version": version}).encode())


@pytest.mark.parametrize("reason", EvictionReason)
def test_eviction_reason_roundtrip(reason: EvictionReason) -> None:
    raw = encode_receipt(eviction(eviction_reason=reason))
    assert json.loads(raw)["eviction_reason"] == reason.value
    receipt = decode_receipt(raw).receipt
    assert isinstance(receipt, KvEvictionReceipt)
    assert receipt.eviction_reason is reason


def test_wire_values_of_reasons_are_kept() -> None:
    assert [reason.value for reason in EvictionReason] == [
        "manual",
        "lru",
        "ttl",
        "policy",
        "close",
    ]


FIELDS: dict[str, Any] = {
    "pool_id": "0" * 32,
    "sequence": 7,
    "timestamp": "2026-01-02T03:04:05.000006Z",
    "pool_total": 4096,
    "bytes_allocated_total": 2048,
    "bytes_freed_total": 1024,
    "bytes_evicted_total": 1024,
    "bytes_moved_total": 0,
    "schema_version": SCHEMA_VERSION,
    "session_id": "chat/1",
    "session_number": 1,
    "bytes_freed": 1024,
    "bytes_pending": 0,
    "pool_used_before": 2048,
    "pool_used_after": 1024,
    "fragmentation_before": 0,
    "fragmentation_after": 0.25,
    "sessions_before": 2,
    "sessions_after": 1,
    "eviction_reason": EvictionReason.LRU,
}


def eviction(**changes: Any) -> KvEvictionReceipt:
    return KvEvictionReceipt(**{**FIELDS, **changes})


def wire(**changes: Any) -> dict[str, Any]:
    return {"event": "kv_eviction", **FIELDS, **changes}


def test_receipt_cannot_be_changed() -> None:
    receipt = eviction()
    for name in receipt.__struct_fields__:
        with pytest.raises(AttributeError, match="immutable"):
            setattr(receipt, name, 1)
    assert receipt == eviction()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sequence", -1),
        ("sequence", 2**53),
        ("sequence", 1.5),
        ("sequence", "7"),
        ("session_number", 0),
        ("timestamp", "2026-01-02T03:04:05Z"),
        ("timestamp", "2026-01-02T03:04:05.000006+00:00"),
        ("timestamp", "2026-01-02T03:04:05.000006Z\n"),
        ("fragmentation_after", 1.01),
        ("fragmentation_after", None),
        ("eviction_reason", "bored"),
        ("session_id", 3),
        ("pool_id", ""),
    ],
)
def test_value_out_of_range_is_refused(name: str, value: Any) -> None:
    with pytest.raises(InvalidReceiptError, match=name):
        decode_receipt(json.dumps(wire(**{name: value})).encode())


@pytest.mark.parametrize("name", [*FIELDS, "event"])
def test_every_field_is_needed(name: str) -> None:
    fields = wire()
    del fields[name]
    with pytest.raises(InvalidReceiptError, match=name if name != "event" else "event"):
        decode_receipt(json.dumps(fields).encode())


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"\xff", b"null", b"[" * 100_000, b'{"event":1}']
)
def test_what_is_no_receipt_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidReceiptError):
        decode_receipt(data)


def test_fields_of_a_newer_minor_version_are_kept() -> None:
    added = {"tier": {"name": "disk", "share": 1e-7, "x": [1, None, "é"]}, "aaa": 5}
    raw = rfc8785.dumps(wire(schema_version="1.7.0", **added))
    record = decode_receipt(raw)
    assert record.unknown == added
    assert record.receipt == eviction(schema_version="1.7.0")
    assert encode_receipt(record) == raw


@pytest.mark.parametrize("version", ["3.0.0", "10.1.0", "0.9.0"])
def test_other_major_version_is_refused(version: str) -> None:
    alien = {"event": "kv_something", "schema_version": version}
    for fields in (wire(schema_version=version), alien):
        with pytest.raises(
            SchemaVersionError, match=f"{version}.* reads 1.x.y and 2.x.y"
        ) as caught:
            decode_receipt(json.dumps(fields).encode())
        assert isinstance(caught.value, KVPoolError)


@pytest.mark.parametrize(
    "version", ["", "1", "1.0", "1.0.0\n", "one", "1.0.0.0", "\N{FULLWIDTH DIGIT ONE}.0.0"]
)
def test_what_is_no_version_is_refused(version: str) -> None:
    with pytest.raises(SchemaVersionError, match=r"expected MAJOR\.MINOR\.PATCH"):
        decode_receipt(json.dumps(wire(schema_version=version)).encode())


def test_text_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(InvalidReceiptError, match="surrogates"):
        encode_receipt(eviction(session_id="\ud800"))


def test_schema_is_the_shipped_one() -> None:
    assert schema_text() == shipped_schema_text(), "write it: kvpool receipts schema"


def test_schema_knows_every_field() -> None:
    schema = json.loads(schema_text())
    assert schema["version"] == SCHEMA_VERSION
    for kind in get_args(Receipt):
        definition = schema["$defs"][kind.__name__]
        fields = {"event", *kind.__struct_fields__}
        assert set(definition["properties"]) == set(definition["required"]) == fields
    reasons = schema["$defs"]["EvictionReason"]["enum"]
    assert sorted(reasons) == sorted(reason.value for reason in EvictionReason)


def test_timestamp_is_utc_with_microseconds() -> None:
    east = timezone(timedelta(hours=2))
    assert timestamp(datetime(2026, 1, 1, 1, tzinfo=east)) == "2025-12-31T23:00:00.000000Z"
    now = datetime.fromisoformat(timestamp())
    assert abs(datetime.now(UTC) - now) < timedelta(minutes=1)
