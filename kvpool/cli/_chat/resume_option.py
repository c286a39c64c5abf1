"""``--resume [NAME]``: an option of which the value may be left out."""

from __future__ import annotations

import itertools
from typing import Annotated, Any

import typer

from kvpool.cli._help import Command
from kvpool.cli._options import POOL

__all__ = ["ChatCommand", "ResumeOption"]

_RESUME = "--resume"

ResumeOption = Annotated[
    str | None,
    typer.Option(
        _RESUME,
        metavar="NAME",
        rich_help_panel=POOL,
        show_default=False,
        help="Go on with a session that an earlier chat kept in the tiers. Without NAME it is the "
        "newest one; MODEL_DIR then stands before this option.",
    ),
]


class ChatCommand(Command):
    """The command ``chat``; typer has no options with a value that may be left out."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Add an empty value to ``--resume`` if no value follows it."""
        given: list[str] = []
        for arg, after in itertools.zip_longest(args, args[1:], fillvalue="-"):
            given.append(arg)
            if arg == _RESUME and after.startswith("-") and "--" not in given:
                given.append("")
        return super().parse_args(ctx, given)
