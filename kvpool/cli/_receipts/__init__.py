"""``kvpool receipts``: verify and read ledgers, and make signing keys."""

from __future__ import annotations

import typer

from kvpool.cli._help import Command, Group, brief_of, help_of

# Imported under other names, because the modules of this package have the same ones.
from kvpool.cli._receipts.copy import copy as copy_command
from kvpool.cli._receipts.keygen import keygen as keygen_command
from kvpool.cli._receipts.schema import schema as schema_command
from kvpool.cli._receipts.show import show as show_command
from kvpool.cli._receipts.summary import summary as summary_command
from kvpool.cli._receipts.verify import verify as verify_command

__all__ = ["receipts"]

_TEXT = "Verify and read ledgers of evictions, and make signing keys."

receipts = typer.Typer(
    name="receipts",
    cls=Group,
    help=_TEXT,
    short_help=_TEXT,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    verify_command,
    show_command,
    summary_command,
    copy_command,
    keygen_command,
    schema_command,
):
    receipts.command(cls=Command, help=help_of(command), short_help=brief_of(command))(command)
