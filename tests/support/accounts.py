"""What a ledger tells by itself: verified, and read with nothing but JSON."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvpool.ledger import VerifyReport, verify
from tests.support.ledgers import PRIVATE, public_key_file

__all__ = ["Departure", "LedgerAccount", "verified"]


@dataclass(frozen=True)
class Departure:
    """An entry left: who, when, why, and with how many bytes."""

    session: str
    number: int
    when: str
    reason: str
    freed: int
    pending: int

    @property
    def nbytes(self) -> int:
        return self.freed + self.pending


class LedgerAccount:
    """The history of one pool, told from its ledger alone.

    Parameters
    ----------
    path : Path
    pool : int, default 0
        Which one, where several wrote the ledger after each other.

    Attributes
    ----------
    receipts : list of dict
        As they stand in the ledger.
    departures : list of Departure
        In the order in which the entries left.
    batches : list of list of Departure
        Those that left in one step.
    """

    def __init__(self, path: Path, pool: int = 0) -> None:
        every = [line["receipt"] for line in _lines(path) if line["kind"] == "receipt"]
        pools = list(dict.fromkeys(receipt["pool_id"] for receipt in every))
        self.receipts = [receipt for receipt in every if receipt["pool_id"] == pools[pool]]
        self.departures: list[Departure] = []
        self.batches: list[list[Departure]] = []
        for receipt in self.receipts:
            if receipt["event"] == "kv_eviction":
                self.departures.append(_departure(receipt))
            elif receipt["event"] == "kv_eviction_batch":
                self.batches.append(self.departures[-receipt["count"] :])

    @property
    def allocated(self) -> int:
        """Bytes that were handed out."""
        return int(self.receipts[-1]["bytes_allocated_total"])

    @property
    def freed(self) -> int:
        """Bytes that came back."""
        return int(self.receipts[-1]["bytes_freed_total"])

    @property
    def moved(self) -> int:
        """Bytes of the blocks that entries left for larger ones."""
        return int(self.receipts[-1]["bytes_moved_total"])

    def by_session(self) -> dict[str, list[Departure]]:
        """Return the departures of each session, in their order."""
        found = defaultdict(list)
        for departure in self.departures:
            found[departure.session].append(departure)
        return dict(found)


def verified(ledger: Path) -> VerifyReport:
    """Verify a whole ledger that is signed with `PRIVATE`: nothing is wrong, nothing open."""
    report = verify(ledger, public_key=public_key_file(ledger.with_suffix(".pub"), PRIVATE))
    assert report.findings == []
    assert report.notes == []
    assert report.is_sealed
    assert report.covered == report.lines
    return report


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    following: Path | None = path
    while following is not None:
        lines = [json.loads(line) for line in following.read_bytes().splitlines()]
        yield from lines
        following = path.parent / lines[-1]["next"] if lines[-1]["kind"] == "rotation" else None


def _departure(receipt: dict[str, Any]) -> Departure:
    return Departure(
        receipt["session_id"],
        receipt["session_number"],
        receipt["timestamp"],
        receipt["eviction_reason"],
        receipt["bytes_freed"],
        receipt["bytes_pending"],
    )
