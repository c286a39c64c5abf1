"""``kvpool receipts verify``: check that a ledger is complete and unchanged."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import get_terminal_size
from textwrap import fill
from typing import Annotated

import typer

from kvpool.cli._options import JsonOption
from kvpool.cli._receipts.options import LedgerArgument
from kvpool.cli._sizes import counted
from kvpool.ledger import Finding, VerifyReport
from kvpool.ledger import verify as verify_ledger
from kvpool.receipts.types import (
    KvEvictionBatchReceipt,
    KvEvictionReceipt,
    KvPoolSnapshotReceipt,
    KvTierEvictionReceipt,
    KvTierLoadReceipt,
    KvTierRefusalReceipt,
)

__all__ = ["verify"]

SHOWN = 50
KINDS = (
    (KvEvictionReceipt, "eviction", "evictions"),
    (KvEvictionBatchReceipt, "batch", "batches"),
    (KvPoolSnapshotReceipt, "snapshot", "snapshots"),
)
BEYOND = (  # only said of pools with tiers
    (KvTierLoadReceipt, "load from a tier", "loads from tiers"),
    (KvTierRefusalReceipt, "refused chunk", "refused chunks"),
    (KvTierEvictionReceipt, "eviction in a tier", "evictions in tiers"),
)


def verify(
    ledger: LedgerArgument,
    public_key: Annotated[
        Path | None,
        typer.Option(help="PEM file of the public key that must have signed the ledger."),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(help="Hash of a line, noted earlier, that the ledger must contain."),
    ] = None,
    allow_open: Annotated[
        bool, typer.Option("--allow-open", help="Accept a ledger that is not sealed yet.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Verify a ledger; the exit code is 0 if it is valid, and 1 if not.

    Checks the form of each line, the chain of hashes, the signatures, the
    sequence of the receipts, and whether their numbers add up.
    """
    report = verify_ledger(ledger, public_key=public_key, head=head, allow_open=allow_open)
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
    else:
        _print(report)
    if not report.ok:
        raise typer.Exit(1)


def _print(report: VerifyReport) -> None:
    columns = get_terminal_size().columns
    for finding in report.findings[:SHOWN]:
        typer.echo(_described(finding))
    if report.total_findings > SHOWN:
        typer.echo(f"… and {report.total_findings - SHOWN:,} more; --json has the first 1,000\n")
    counts = (
        counted(report.events[str(kind.__struct_config__.tag)], name, plural)
        for kind, name, plural in (*KINDS, *BEYOND)
        if (kind, name, plural) in KINDS or report.events[str(kind.__struct_config__.tag)]
    )
    typer.echo(f"receipts  {report.receipts:,}: {', '.join(counts)}")
    state = "sealed" if report.is_sealed else "open"
    typer.echo(
        f"ledger    {counted(report.lines, 'line')}, {counted(len(report.files), 'file')}, "
        f"{counted(report.segments, 'segment')}, {state}"
    )
    if report.public_key:
        valid = counted(report.signatures, "valid signature")
        typer.echo(f"signed    {valid}, for {report.covered:,} of {report.lines:,} lines")
    typer.echo(f"head      {report.head or 'none'}")
    for note in report.notes:
        typer.echo(fill(f"note      {note}", columns, subsequent_indent=" " * 10))
    verdict = "ok" if report.ok else f"FAILED, {counted(report.total_findings, 'finding')}"
    typer.echo(f"verdict   {verdict}")


def _described(finding: Finding) -> str:
    where = f"{finding.file}:{finding.line}" if finding.line else finding.file
    return (
        f"{where}: {finding.field}: {finding.rule}\n"
        f"  expected  {finding.expected}\n"
        f"  found     {finding.found}\n"
    )
