"""``kvpool receipts copy``: copy a ledger, with session ids redacted if wanted."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from kvpool.cli._options import with_default
from kvpool.cli._receipts.options import LedgerArgument, OpenLedger
from kvpool.ledger import LedgerSink, read_salt, verify
from kvpool.receipts.errors import DamagedLedgerError, LedgerOptionError

__all__ = ["copy"]


def copy(
    ledger: LedgerArgument,
    target: Annotated[
        Path, typer.Argument(help="The new ledger; it must not exist.", show_default=False)
    ],
    redact: Annotated[
        bool, typer.Option("--redact", help="Replace session ids by salted digests.")
    ] = False,
    salt: Annotated[
        Path | None, typer.Option(help=with_default("Salt file.", "a new one, TARGET.salt"))
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="PEM file of the private key to sign the copy with.")
    ] = None,
) -> None:
    """Copy the receipts of a ledger to a new one, for example to share it with others.

    The ledger must verify. The header of the copy contains the last hash of the ledger.
    """
    if target.exists():
        raise LedgerOptionError(f"{target} already exists; give the copy a new name")
    report = verify(ledger, allow_open=True)
    if not report.ok:
        raise DamagedLedgerError(
            f"{ledger} does not verify, so it was not copied: {report.findings[0]}"
        )
    receipts = [receipt for _, receipt in islice(OpenLedger(ledger).receipts(), report.receipts)]
    newer = {one.schema_version for one in receipts if one.schema_version != one.since}
    if newer:
        raise LedgerOptionError(f"receipts of schema {newer} can only be copied by a newer kvpool")
    with LedgerSink(
        target,
        key=key,
        redact=redact,
        salt=read_salt(salt) if salt else None,
        copy_of=report.head,
    ) as sink:
        for receipt in receipts:
            sink.emit(receipt)
    typer.echo(f"{report.receipts:,} receipts; head {sink.head}")
