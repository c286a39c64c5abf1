"""``kvpool receipts show``: print the receipts of a ledger as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.cells import chop_cells, set_cell_size

from kvpool._escaping import printable
from kvpool.cli._options import JsonOption, with_default
from kvpool.cli._receipts.options import (
    LedgerArgument,
    OpenLedger,
    console,
)
from kvpool.cli._sizes import format_size
from kvpool.eviction.base import EvictionReason
from kvpool.ledger import Redactor, read_salt, salt_file
from kvpool.receipts.errors import LedgerOptionError
from kvpool.receipts.types import (
    KvEvictionBatchReceipt,
    KvEvictionReceipt,
    KvPoolSnapshotReceipt,
    KvTierEvictionReceipt,
    KvTierLoadReceipt,
    KvTierRefusalReceipt,
    Receipt,
    timestamp,
)

__all__ = ["show"]

ROW = "{:>7}  {:<19}  {}  {:<6}  {:>10}  {:>10}"  # the session fills the rest of the line
_LEAST_ROOM = 12  # characters for the session
Wanted = Callable[[Receipt], bool]


def show(
    ledger: LedgerArgument,
    session: Annotated[
        str | None, typer.Option(help="Show only receipts of this session id.")
    ] = None,
    salt: Annotated[
        Path | None,
        typer.Option(
            help=with_default("Salt file, for --session in a redacted ledger.", "LEDGER.salt")
        ),
    ] = None,
    reason: Annotated[
        EvictionReason | None, typer.Option(help="Show only evictions for this reason.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            help="Show only receipts from this time on, e.g. 2026-01-31 or 2026-01-31T12:00Z."
        ),
    ] = None,
    until: Annotated[str | None, typer.Option(help="Show only receipts before this time.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Print the receipts of a ledger, one per line, without verifying them."""
    opened = OpenLedger(ledger)
    since, until = _moment(since), _moment(until)

    def wanted(receipt: Receipt) -> bool:
        if since is not None and receipt.timestamp < since:
            return False
        if until is not None and receipt.timestamp >= until:
            return False
        if session is None and reason is None:
            return True
        return (
            isinstance(receipt, KvEvictionReceipt | KvTierLoadReceipt | KvTierRefusalReceipt)
            and (reason is None or getattr(receipt, "eviction_reason", None) is reason)
            and (session is None or receipt.session_id == name_of_session())
        )

    digests: list[str] = []

    def name_of_session() -> str:
        if not digests:
            digests.append(_session_id(session or "", opened, salt))
        return digests[0]

    lines = ((raw, receipt) for raw, receipt in opened.receipts() if wanted(receipt))
    if as_json:
        for raw, _ in lines:
            typer.echo(bytes(msgspec.json.decode(raw, type=_Line).receipt))
    else:
        _print(receipt for _, receipt in lines)
    opened.warn()


class _Line(msgspec.Struct):
    receipt: msgspec.Raw


def _session_id(session: str, opened: OpenLedger, salt: Path | None) -> str:
    """Return the session id as it is written in the ledger."""
    if opened.redaction is None:
        return session
    redactor = Redactor(read_salt(salt or salt_file(opened.path)))
    if redactor.redaction != opened.redaction:
        raise LedgerOptionError("the ledger was redacted with another salt than the given one")
    return redactor.digest(session)


def _moment(text: str | None) -> str | None:
    """Return a time of the command line in the format of receipts; UTC unless it has a zone."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{error}; expected e.g. 2026-01-31T12:00:00Z") from None
    return timestamp(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def _print(receipts: Iterator[Receipt]) -> None:
    """Print row by row, so that the first rows of a long ledger show at once."""
    room = console().width - len(ROW.format("", "", "", "", "", ""))
    if room < _LEAST_ROOM:
        _print_narrow(receipts)
        return
    heads = ("#", "time (UTC)", set_cell_size("session", room), "reason", "freed", "used")
    is_first = True
    for receipt in receipts:
        if is_first:
            typer.echo(ROW.format(*heads))
            is_first = False
        number, moment, session, *others = _row(receipt)
        session, *rest = chop_cells(printable(session), room) or [""]
        typer.echo(ROW.format(number, moment, set_cell_size(session, room), *others))
        for part in rest:
            typer.echo(f"{'':30}{part}")


def _print_narrow(receipts: Iterator[Receipt]) -> None:
    """Print the same in a few short lines for each receipt."""
    for receipt in receipts:
        number, moment, session, reason, freed, used = _row(receipt)
        typer.echo(f"{number}  {moment}  {reason}".rstrip())
        typer.echo(f"  {printable(session)}")
        typer.echo(f"  {f'freed {freed}, ' if freed else ''}used {used}")


def _of_tier(receipt: Receipt) -> tuple[str, str]:
    """Return what stands for the session, and for the reason, of what happened in a tier."""
    if isinstance(receipt, KvTierLoadReceipt):
        session = f"{receipt.session_id} ({receipt.tokens:,} tokens from {receipt.tier})"
        return session, "load"
    if isinstance(receipt, KvTierRefusalReceipt):
        session = f"{receipt.session_id} ({receipt.refusal_reason}, from {receipt.tier})"
        return session, "refuse"
    if isinstance(receipt, KvTierEvictionReceipt):
        return f"({receipt.count:,} values of {receipt.tier})", "tier"
    return f"({receipt.event})", ""


def _row(receipt: Receipt) -> tuple[str, ...]:
    reason = freed = ""
    if isinstance(receipt, KvEvictionReceipt):
        session, reason = receipt.session_id, receipt.eviction_reason.value
        freed, used = format_size(receipt.bytes_freed), receipt.pool_used_after
    elif isinstance(receipt, KvEvictionBatchReceipt):
        session = f"(batch of {receipt.count:,})"
        freed, used = format_size(receipt.total_bytes_freed), receipt.pool_used_after
    elif isinstance(receipt, KvPoolSnapshotReceipt):
        session, used = f"(snapshot of {receipt.active_sessions:,})", receipt.pool_used
    else:
        session, reason = _of_tier(receipt)
        used = receipt.bytes_allocated_total - receipt.bytes_freed_total
    moment = receipt.timestamp[:19].replace("T", " ")
    return str(receipt.sequence), moment, session, reason, freed, format_size(used)
