"""``kvpool receipts summary``: add up the evictions of a ledger."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from kvpool._escaping import printable
from kvpool.cli._options import JsonOption
from kvpool.cli._receipts.options import (
    LedgerArgument,
    OpenLedger,
    console,
)
from kvpool.cli._sizes import counted, format_size
from kvpool.cli._tables import Fitted
from kvpool.receipts.types import (
    KvEvictionReceipt,
    KvPoolSnapshotReceipt,
    KvTierEvictionReceipt,
    KvTierLoadReceipt,
    KvTierRefusalReceipt,
    Receipt,
)

__all__ = ["summary"]

EIGHTHS = " ▏▎▍▌▋▊▉█"


@dataclass(slots=True)
class _Sums:
    """The sums over all receipts."""

    receipts: int = 0
    snapshots: int = 0
    pools: set[str] = field(default_factory=set)
    sessions: set[str] = field(default_factory=set)
    evictions: Counter[str] = field(
        default_factory=Counter
    )  # by reason, like `freed` and `pending`
    freed: Counter[str] = field(default_factory=Counter)
    pending: Counter[str] = field(default_factory=Counter)
    loads: Counter[str] = field(default_factory=Counter)  # by tier, like the next three
    tokens: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    tier_evictions: Counter[str] = field(default_factory=Counter)
    first: str = ""
    last: str = ""
    times: array[float] = field(default_factory=lambda: array("d"))  # of evictions, seconds

    def add(self, receipt: Receipt) -> None:
        """Add a receipt to the sums."""
        self.receipts += 1
        self.pools.add(receipt.pool_id)
        self.first = min(self.first or receipt.timestamp, receipt.timestamp)
        self.last = max(self.last, receipt.timestamp)
        self.snapshots += isinstance(receipt, KvPoolSnapshotReceipt)
        if isinstance(receipt, KvEvictionReceipt):
            reason = receipt.eviction_reason.value
            self.sessions.add(receipt.session_id)
            self.evictions[reason] += 1
            self.freed[reason] += receipt.bytes_freed
            self.pending[reason] += receipt.bytes_pending
            self.times.append(datetime.fromisoformat(receipt.timestamp).timestamp())
        elif isinstance(receipt, KvTierLoadReceipt):
            self.loads[receipt.tier] += 1
            self.tokens[receipt.tier] += receipt.tokens
        elif isinstance(receipt, KvTierRefusalReceipt):
            self.refusals[receipt.tier] += 1
        elif isinstance(receipt, KvTierEvictionReceipt):
            self.tier_evictions[receipt.tier] += receipt.count

    def tiers(self) -> list[str]:
        """Return the names of the tiers that something is known of, sorted."""
        return sorted({*self.loads, *self.refusals, *self.tier_evictions})


def summary(
    ledger: LedgerArgument,
    bins: Annotated[
        int, typer.Option(min=1, max=1000, help="Rows of the histogram over time.")
    ] = 16,
    as_json: JsonOption = False,
) -> None:
    """Add up the evictions of a ledger by reason and over time, without verifying it."""
    opened, sums = OpenLedger(ledger), _Sums()
    for _, receipt in opened.receipts():
        sums.add(receipt)
    if as_json:
        typer.echo(json.dumps(_document(sums, bins), indent=2))
    else:
        _print(console(), sums, bins)
    opened.warn()


def _document(sums: _Sums, bins: int) -> dict[str, Any]:
    return {
        "receipts": sums.receipts,
        "snapshots": sums.snapshots,
        "pools": len(sums.pools),
        "sessions": len(sums.sessions),
        "first": sums.first or None,
        "last": sums.last or None,
        "evictions": {
            reason: {
                "count": count,
                "bytes_freed": sums.freed[reason],
                "bytes_pending": sums.pending[reason],
            }
            for reason, count in sums.evictions.most_common()
        },
        "tiers": {
            tier: {
                "loads": sums.loads[tier],
                "tokens": sums.tokens[tier],
                "refused": sums.refusals[tier],
                "evicted": sums.tier_evictions[tier],
            }
            for tier in sums.tiers()
        },
        "histogram": [
            {"from": _iso(start), "evictions": count} for start, count in _histogram(sums, bins)
        ],
    }


def _print(screen: Console, sums: _Sums, bins: int) -> None:
    if not sums.receipts:
        screen.print("No receipts.")
        return
    screen.print(
        f"{counted(sums.receipts, 'receipt')} of {counted(len(sums.pools), 'pool')} and "
        f"{counted(len(sums.sessions), 'session')}, {counted(sums.snapshots, 'snapshot')}\n"
        f"from {sums.first} to {sums.last}"
    )
    screen.print(Fitted(_by_reason(sums)))
    if sums.tiers():
        screen.print(Fitted(_by_tier(sums)))
    if sums.times:
        _print_histogram(screen, _histogram(sums, bins))


def _by_reason(sums: _Sums) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_footer=True)
    total = sums.evictions.total()
    table.add_column("reason", "all")
    for name, footer in (
        ("evictions", f"{total:,}"),
        ("share", ""),
        ("freed at once", format_size(sums.freed.total())),
        ("freed later", format_size(sums.pending.total())),
    ):
        table.add_column(name, footer, justify="right", no_wrap=True)
    for reason, count in sums.evictions.most_common():
        share = f"{count / total:.1%}"
        freed, pending = format_size(sums.freed[reason]), format_size(sums.pending[reason])
        table.add_row(reason, f"{count:,}", share, freed, pending)
    return table


def _by_tier(sums: _Sums) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("tier")
    for name in ("loads", "tokens loaded", "chunks refused", "values evicted"):
        table.add_column(name, justify="right", no_wrap=True)
    for tier in sums.tiers():
        counts = sums.loads[tier], sums.tokens[tier], sums.refusals[tier], sums.tier_evictions[tier]
        table.add_row(printable(tier), *(f"{count:,}" for count in counts))
    return table


def _histogram(sums: _Sums, bins: int) -> list[tuple[float, int]]:
    """Return the start and the number of evictions of each of `bins` equal spans of time."""
    if not sums.times:
        return []
    first, last = min(sums.times), max(sums.times)
    if first == last:
        return [(first, len(sums.times))]
    span = (last - first) / bins
    counts = Counter(min(int((moment - first) / span), bins - 1) for moment in sums.times)
    return [(first + index * span, counts[index]) for index in range(bins)]


def _print_histogram(screen: Console, histogram: list[tuple[float, int]]) -> None:
    most = max(count for _, count in histogram)
    span = histogram[1][0] - histogram[0][0] if len(histogram) > 1 else 0
    room = max(screen.width - 24 - len(f"{most:,}") - 2, 8)
    screen.print("evictions over time (UTC)" + (f", {_span(span)} per row" if span else ""))
    for start, count in histogram:
        eighths = round(count / most * room * 8)
        bar = "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()
        moment = _iso(start)[: 19 if span >= 1 else 23].replace("T", " ")
        screen.print(" ".join(filter(None, (moment, bar, f"{count:,}"))), soft_wrap=True)


def _span(seconds: float) -> str:
    return f"{timedelta(seconds=round(seconds))}" if seconds >= 60 else f"{seconds:.3g} s"


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")
