"""``kvpool receipts copy``: a ledger for others, without session ids that could be read."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from kvpool.cli._receipts.options import LedgerArgument, OpenLedger
from kvpool.ledger import LedgerSink, read_salt, verify
from kvpool.receipts.errors import DamagedLedgerError, LedgerOptionError
from kvpool.receipts.types import SCHEMA_VERSION

__all__ = ["copy"]


def copy(
    ledger: LedgerArgument,
    target: Annotated[
        Path, typer.Argument(help="The new ledger; must not be there.", show_default=False)
    ],
    redact: Annotated[
        bool, typer.Option("--redact", help="Write session ids as salted digests.")
    ] = False,
    salt: Annotated[
        Path | None, typer.Option(help="Salt file. By default a new one, TARGET.salt.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="PEM file of the private key that signs the copy.")
    ] = None,
) -> None:
    """Write the receipts of a ledger into a new one that can be handed to others.

    The ledger has to verify. The copy names the last hash of the ledger that it is made of.
    """
    if target.exists():
        raise LedgerOptionError(f"{target} is there already: a copy is a new ledger")
    report = verify(ledger, allow_open=True)
    if not report.ok:
        raise DamagedLedgerError(
            f"{ledger} is not copied, it does not verify: {report.findings[0]}"
        )
    receipts = [receipt for _, receipt in islice(OpenLedger(ledger).receipts(), report.receipts)]
    newer = {one.schema_version for one in receipts} - {SCHEMA_VERSION}
    if newer:
        raise LedgerOptionError(f"receipts of schema {newer} need a newer kvpool to be copied")
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
