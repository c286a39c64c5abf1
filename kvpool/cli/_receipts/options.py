"""Shared parts of the commands: arguments, the console, the receipts of a ledger."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from kvpool.cli._sizes import counted
from kvpool.ledger import Header, ReceiptLine, Redaction, read_ledger
from kvpool.receipts.errors import DamagedLedgerError
from kvpool.receipts.types import Receipt

__all__ = ["LedgerArgument", "OpenLedger", "console"]

LedgerArgument = Annotated[
    Path,
    typer.Argument(help="First file of a ledger, or its directory.", show_default=False),
]


def console() -> Console:
    """Return a console without markup, because session ids may contain brackets."""
    return Console(markup=False, highlight=False, emoji=False)


@dataclass(slots=True)
class OpenLedger:
    """Reads the receipts of a ledger in order, without verifying them.

    Attributes
    ----------
    path : Path
    damaged : int
        How many lines so far could not be read.
    redaction : Redaction or None
        From the first header; None if the ledger is not redacted.
    """

    path: Path
    damaged: int = 0
    redaction: Redaction | None = None

    def receipts(self) -> Iterator[tuple[bytes, Receipt]]:
        """Yield each receipt with the bytes of its line.

        Raises
        ------
        LedgerError
            A file cannot be read.
        DamagedLedgerError
            The file does not begin with the header of a ledger.
        """
        is_first = True
        for raw, line in read_ledger(self.path):
            if is_first:
                if not isinstance(line, Header):
                    raise DamagedLedgerError(
                        f"{self.path} does not begin with the header of a ledger"
                    )
                self.redaction = line.redaction
                is_first = False
            if line is None:
                self.damaged += 1
            elif isinstance(line, ReceiptLine):
                yield raw, line.receipt

    def warn(self) -> None:
        """Print a warning to standard error if lines could not be read."""
        if self.damaged:
            lines = counted(self.damaged, "line")
            typer.echo(f"kvpool: {lines} not readable; see `kvpool receipts verify`", err=True)
