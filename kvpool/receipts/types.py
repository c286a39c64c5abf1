"""The receipts: frozen, typed records of what a pool did.

The numbers of one receipt belong to one moment. Every receipt carries running totals, so
that each line of a ledger can be checked by itself:
``pool_used_after == bytes_allocated_total - bytes_freed_total``.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import msgspec

from kvpool.eviction.base import EvictionReason

__all__ = [
    "SCHEMA_VERSION",
    "BaseReceipt",
    "Count",
    "Duration",
    "KvEvictionBatchReceipt",
    "KvEvictionReceipt",
    "KvPoolSnapshotReceipt",
    "PoolId",
    "Receipt",
    "Share",
    "Timestamp",
    "Version",
    "timestamp",
]

SCHEMA_VERSION = "1.0.0"
"""Of the receipts that this version writes: major.minor.patch."""

_MAX = 2**53 - 1  # what a JSON number carries exactly everywhere
Count = Annotated[int, msgspec.Meta(ge=0, le=_MAX)]
# Canonical JSON writes a whole number without a fraction, so "0" must be read as it stands.
Share = Annotated[int, msgspec.Meta(ge=0, le=1)] | Annotated[float, msgspec.Meta(ge=0, le=1)]
Duration = (
    Annotated[int, msgspec.Meta(ge=0, le=_MAX)] | Annotated[float, msgspec.Meta(ge=0, le=_MAX)]
)
PoolId = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Timestamp = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$",
        max_length=27,
        description="RFC 3339, UTC, microseconds",
    ),
]
# Whoever reads a version looks at its parts anyway, so the pattern is for the schema only.
Version = Annotated[
    str, msgspec.Meta(max_length=29, extra_json_schema={"pattern": r"^\d+\.\d+\.\d+$"})
]


class BaseReceipt(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag_field="event"):
    """What every receipt has.

    Attributes
    ----------
    pool_id : str
        Names the manager; 32 random hexadecimal digits.
    sequence : int
        Among the receipts of one manager: 0, 1, 2, …
    timestamp : str
        RFC 3339, UTC, microseconds.
    pool_total : int
        Bytes of the pool.
    bytes_allocated_total, bytes_freed_total : int
        Bytes handed out and given back since the pool was made.
    bytes_evicted_total : int
        Of the bytes given back, those that an eviction gave back at once: the sum of
        `bytes_freed` of the eviction receipts so far. The others came back with a last
        view, or because an entry moved.
    bytes_moved_total : int
        Bytes that entries gave up while they stayed: of blocks that they left for larger
        ones, of tokens that they dropped, of pages that they left to their forks; and of
        blocks that no entry came of. They are given back at once, or with a last view or fork.
    schema_version : str
    """

    pool_id: PoolId
    sequence: Count
    timestamp: Timestamp
    pool_total: Count
    bytes_allocated_total: Count
    bytes_freed_total: Count
    bytes_evicted_total: Count
    bytes_moved_total: Count
    schema_version: Version

    @property
    def event(self) -> str:
        """What happened: the field that tells the kinds of receipts apart."""
        return str(self.__struct_config__.tag)


class KvEvictionReceipt(BaseReceipt, frozen=True, kw_only=True, gc=False, tag="kv_eviction"):
    """One entry left the pool.

    Attributes
    ----------
    session_id : str
        Whose entry it was; a salted digest in a redacted ledger.
    session_number : int
        1 for the first entry that the manager made, and so on: it tells two entries of one
        session apart.
    bytes_freed : int
        Bytes that came back at once: ``pool_used_before - pool_used_after``.
    bytes_pending : int
        Bytes that come back when the last view and the last fork of the entry are gone.
    pool_used_before, pool_used_after : int
        Bytes.
    fragmentation_before, fragmentation_after : float
        ``1 - largest free range / free bytes``, rounded to five decimals.
    sessions_before, sessions_after : int
        Entries in the pool.
    eviction_reason : EvictionReason
    """

    session_id: str
    session_number: Annotated[int, msgspec.Meta(ge=1, le=_MAX)]
    bytes_freed: Count
    bytes_pending: Count
    pool_used_before: Count
    pool_used_after: Count
    fragmentation_before: Share
    fragmentation_after: Share
    sessions_before: Count
    sessions_after: Count
    eviction_reason: EvictionReason

    @property
    def measures(self) -> tuple[float, ...]:
        """The fields that need not be whole."""
        return self.fragmentation_before, self.fragmentation_after


class KvEvictionBatchReceipt(
    BaseReceipt, frozen=True, kw_only=True, gc=False, tag="kv_eviction_batch"
):
    """Several entries left in one step; it follows their own receipts.

    Attributes
    ----------
    count : int
        How many: the `count` eviction receipts right before this one are its members.
    total_bytes_freed : int
        The sum of their `bytes_freed`.
    pool_used_before, pool_used_after : int
        Bytes, before the first of them and after the last.
    fragmentation_before, fragmentation_after : float
        At the same moments.
    duration_ms : float
        Milliseconds that the step took.
    """

    count: Annotated[int, msgspec.Meta(ge=1, le=_MAX)]
    total_bytes_freed: Count
    pool_used_before: Count
    pool_used_after: Count
    fragmentation_before: Share
    fragmentation_after: Share
    duration_ms: Duration

    @property
    def measures(self) -> tuple[float, ...]:
        """The fields that need not be whole."""
        return self.fragmentation_before, self.fragmentation_after, self.duration_ms


class KvPoolSnapshotReceipt(
    BaseReceipt, frozen=True, kw_only=True, gc=False, tag="kv_pool_snapshot"
):
    """The state of the pool at one moment.

    Attributes
    ----------
    pool_used : int
        Bytes.
    utilization : float
        ``pool_used / pool_total``.
    fragmentation : float
        ``1 - largest free range / free bytes``, rounded to five decimals.
    active_sessions, total_sessions_created, total_evictions : int
        Entries in the pool, made so far, and gone so far.
    cache_hits, cache_misses : int
        Look-ups so far.
    """

    pool_used: Count
    utilization: Share
    fragmentation: Share
    active_sessions: Count
    total_sessions_created: Count
    total_evictions: Count
    cache_hits: Count
    cache_misses: Count

    @property
    def measures(self) -> tuple[float, ...]:
        """The fields that need not be whole."""
        return self.utilization, self.fragmentation


Receipt = KvEvictionReceipt | KvEvictionBatchReceipt | KvPoolSnapshotReceipt
"""Any receipt."""


def timestamp(moment: datetime | None = None) -> str:
    """Return a moment, by default now, as receipts write it.

    Parameters
    ----------
    moment : datetime, optional
        With a time zone.

    Examples
    --------
    >>> timestamp(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    '2026-01-02T03:04:05.000000Z'
    """
    utc = datetime.now(UTC) if moment is None else moment.astimezone(UTC)
    return utc.isoformat(timespec="microseconds")[:26] + "Z"
