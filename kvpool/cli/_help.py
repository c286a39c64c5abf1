"""The help of commands: from docstrings, in narrow terminals, and in the completion of shells."""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console
from typer.core import TyperCommand, TyperGroup

__all__ = ["Command", "Group", "brief_of", "help_of"]

_COLUMNS = 80
"""What typer's tables of options need. In fewer columns they cut names, defaults and choices."""

_NAME_COLUMNS = 4
"""A longer name has a line of its own in a narrow terminal, and its text is below."""


def help_of(command: Callable[..., object]) -> str:
    """Return the docstring with each paragraph on one line, which the terminal then wraps."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    return "\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs)


def brief_of(command: Callable[..., object]) -> str:
    """Return the first paragraph of the docstring, for lists of commands.

    Without it, typer cuts the text after 45 characters in the completion of a shell.
    """
    return help_of(command).partition("\n\n")[0]


class Command(TyperCommand):
    """A command with help for narrow terminals, and short descriptions for completion.

    In a terminal of fewer than 80 columns, the help is plain text: each option is on a line of its
    own and its text is below it, so that neither is cut.
    """

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help as tables, or as plain text if the terminal is too narrow for them."""
        if not _wrote_plain_text(self, ctx, formatter):
            super().format_help(ctx, formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options in their groups."""
        _write_options(self.get_params(ctx), ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Offer names, each with the first sentence of its text."""
        return _with_first_sentences(super().shell_complete(ctx, incomplete))


class Group(TyperGroup):
    """A group of commands, with the help and the completion of `Command`."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help as tables, or as plain text if the terminal is too narrow for them."""
        if not _wrote_plain_text(self, ctx, formatter):
            super().format_help(ctx, formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options in their groups, and then the commands."""
        _write_options(self.get_params(ctx), ctx, formatter)
        self.format_commands(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Offer names, each with the first sentence of its text."""
        return _with_first_sentences(super().shell_complete(ctx, incomplete))


def _wrote_plain_text(command: Any, ctx: Any, formatter: Any) -> bool:
    """Write the help as plain text in a narrow terminal; return whether it is one."""
    columns = Console().width
    if columns >= _COLUMNS:
        return False
    formatter.width = columns - 2  # as wide as tables would be
    command.format_usage(ctx, formatter)
    command.format_help_text(ctx, formatter)
    command.format_options(ctx, formatter)
    return True


def _write_options(params: Iterable[Any], ctx: Any, formatter: Any) -> None:
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list, Arguments=[], Options=[])
    for param in params:
        record = param.get_help_record(ctx)
        if record is not None:
            name, text = record
            group = param.rich_help_panel or f"{param.param_type_name.capitalize()}s"
            groups[group].append((name, text.replace(r"\[", "[")))  # escaped for the tables
    for group, records in groups.items():
        if records:
            with formatter.section(group):
                formatter.write_dl(records, col_max=_NAME_COLUMNS)


def _with_first_sentences(items: list[Any]) -> list[Any]:
    for item in items:
        item.help = _first_sentence(item.help or "") or None
    return items


def _first_sentence(text: str) -> str:
    """Return a text up to its first full stop.

    Examples
    --------
    >>> _first_sentence("Address to listen on, such as 0.0.0.0. Names are looked up.")
    'Address to listen on, such as 0.0.0.0.'
    """
    found = re.match(r".*?\.(?=\s|$)", text)
    return found[0] if found else text
