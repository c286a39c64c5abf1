"""What several of the commands share: arguments, units, the receipts of a ledger."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from kvpool.ledger import Header, ReceiptLine, Redaction, read_ledger
from kvpool.receipts.errors import DamagedLedgerError
from kvpool.receipts.types import Receipt

__all__ = ["JsonOption", "LedgerArgument", "OpenLedger", "bytes_text", "console", "counted"]

LedgerArgument = Annotated[
    Path,
    typer.Argument(
        help="The first file of a ledger, or the directory that holds it.", show_default=False
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def console() -> Console:
    """Return a console that prints texts as they are: session ids may hold brackets."""
    return Console(markup=False, highlight=False, emoji=False)


def bytes_text(count: float) -> str:
    """Return a number of bytes for people.

    Examples
    --------
    >>> [bytes_text(count) for count in (0, 1023, 1024, 1536 << 20)]
    ['0 B', '1023 B', '1.0 KiB', '1.5 GiB']
    """
    power = 0
    while count >= 1024 and power < len(UNITS) - 1:
        count /= 1024
        power += 1
    return f"{count:.1f} {UNITS[power]}" if power else f"{count} B"


def counted(count: int, name: str, plural: str = "") -> str:
    """Return a number of things.

    Examples
    --------
    >>> counted(1, "line"), counted(2000, "line"), counted(0, "batch", "batches")
    ('1 line', '2,000 lines', '0 batches')
    """
    return f"{count:,} {name if count == 1 else plural or name + 's'}"


@dataclass(slots=True)
class OpenLedger:
    """The receipts of a ledger, one after the other; nothing is verified.

    Attributes
    ----------
    path : Path
    damaged : int
        Lines so far that could not be read.
    redaction : Redaction or None
        As the first header says.
    """

    path: Path
    damaged: int = 0
    redaction: Redaction | None = None

    def receipts(self) -> Iterator[tuple[bytes, Receipt]]:
        """Yield each line that is a receipt, and what it says.

        Raises
        ------
        LedgerError
            A file cannot be read.
        DamagedLedgerError
            It does not begin as a ledger does.
        """
        is_first = True
        for raw, line in read_ledger(self.path):
            if is_first:
                if not isinstance(line, Header):
                    raise DamagedLedgerError(f"{self.path} does not begin as a ledger does")
                self.redaction = line.redaction
                is_first = False
            if line is None:
                self.damaged += 1
            elif isinstance(line, ReceiptLine):
                yield raw, line.receipt

    def warn(self) -> None:
        """Say on standard error if there were lines that could not be read."""
        if self.damaged:
            lines = counted(self.damaged, "line")
            typer.echo(f"kvpool: {lines} not readable: see `kvpool receipts verify`", err=True)
