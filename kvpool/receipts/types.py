"""The receipts: frozen, typed records of what a pool did.

The numbers of one receipt belong to one moment. Every receipt carries running totals, so
that each line of a ledger can be checked by itself:
``pool_used_after == bytes_allocated_total - bytes_freed_total``.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, ClassVar

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
    "KvTierEvictionReceipt",
    "KvTierLoadReceipt",
    "KvTierRefusalReceipt",
    "PoolId",
    "Receipt",
    "Share",
    "TierReceipt",
    "Timestamp",
    "Version",
    "timestamp",
]

SCHEMA_VERSION = "2.0.0"
"""The newest that this version reads and writes: major.minor.patch.

A receipt has the lowest version that has its kind, so that older readers read as much as they can.
"""

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
        At least the one that has this kind of receipt, `since`.
    """

    since: ClassVar[str] = "1.0.0"

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


class TierReceipt(BaseReceipt, frozen=True, kw_only=True, gc=False):
    """What receipts of tiers have: what happened beyond the pool.

    Attributes
    ----------
    tier : str
        Its URL, without secrets and options.
    """

    since: ClassVar[str] = "2.0.0"

    tier: Annotated[str, msgspec.Meta(min_length=1)]


class KvTierLoadReceipt(TierReceipt, frozen=True, kw_only=True, gc=False, tag="kv_tier_load"):
    """Tokens came from a tier into an entry.

    Attributes
    ----------
    session_id : str
        Whose entry it is; a salted digest in a redacted ledger.
    session_number : int
        As in an eviction.
    tokens : int
        That the entry got.
    bytes_loaded : int
        Of the chunks that were read, as keys and values.
    duration_ms : float
        Milliseconds that it took.
    """

    session_id: str
    session_number: Annotated[int, msgspec.Meta(ge=1, le=_MAX)]
    tokens: Annotated[int, msgspec.Meta(ge=1, le=_MAX)]
    bytes_loaded: Annotated[int, msgspec.Meta(ge=1, le=_MAX)]
    duration_ms: Duration

    @property
    def measures(self) -> tuple[float, ...]:
        """The fields that need not be whole."""
        return (self.duration_ms,)


class KvTierRefusalReceipt(TierReceipt, frozen=True, kw_only=True, gc=False, tag="kv_tier_refusal"):
    """A chunk that a tier returned was wrong, and was not served.

    It is removed from the tier, unless its format is that of another version of kvpool.

    Attributes
    ----------
    session_id : str
        For whose entry it was read; a salted digest in a redacted ledger.
    session_number : int
        As in an eviction.
    chunk : str
        Its name, hexadecimal; a salted digest in a redacted ledger.
    tokens : int
        That it stands for.
    refusal_reason : str
        What was wrong, such as ``"digest"``.
    """

    session_id: str
    session_number: Annotated[int, msgspec.Meta(ge=1, le=_MAX)]
    chunk: Annotated[str, msgspec.Meta(min_length=1)]
    tokens: Annotated[int, msgspec.Meta(ge=1, le=_MAX)]
    refusal_reason: Annotated[str, msgspec.Meta(min_length=1)]

    @property
    def measures(self) -> tuple[float, ...]:
        """The fields that need not be whole."""
        return ()


class KvTierEvictionReceipt(
    TierReceipt, frozen=True, kw_only=True, gc=False, tag="kv_tier_eviction"
):
    """A tier evicted values, for what the pool stored in it.

    Attributes
    ----------
    count : int
        How many.
    """

    count: Annotated[int, msgspec.Meta(ge=1, le=_MAX)]

    @property
    def measures(self) -> tuple[float, ...]:
        """The fields that need not be whole."""
        return ()


Receipt = (
    KvEvictionReceipt
    | KvEvictionBatchReceipt
    | KvPoolSnapshotReceipt
    | KvTierLoadReceipt
    | KvTierRefusalReceipt
    | KvTierEvictionReceipt
)
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
