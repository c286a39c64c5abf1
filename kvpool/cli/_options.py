"""Options that several commands share, so that each has one text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from kvpool.backends import registry
from kvpool.cli._sizes import parse_size
from kvpool.eviction.registry import registry as policies
from kvpool.replay import TraceFormat

__all__ = [
    "LAYOUT",
    "OUTPUT",
    "POOL",
    "RESERVED_TOKENS",
    "TRACE",
    "WEEK",
    "BackendOption",
    "CapacityOption",
    "CsvOption",
    "ElasticOption",
    "HashBlockTokensOption",
    "JsonOption",
    "MaxRequestsOption",
    "SkipBadOption",
    "TraceArgument",
    "TraceFormatOption",
    "a_number",
    "alternatives",
    "capacity_option",
    "policy_names",
    "with_default",
]


def with_default(text: str, default: str) -> str:
    """Return a help text that ends with ``[default: …]``, for defaults that typer cannot show.

    Typer itself would write ``[default: (…)]``, with parentheses.
    """
    return f"{text} {escape(f'[default: {default}]')}"


def alternatives(names: Sequence[str]) -> str:
    """Return names as a list in words.

    Examples
    --------
    >>> alternatives(["float32", "float16", "int8"])
    'float32, float16 or int8'
    """
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def a_number(value: float) -> float:
    """Refuse what is not a number: the limits of an option let it through.

    Raises
    ------
    BadParameter
        `value` is "nan".
    """
    if math.isnan(value):
        raise typer.BadParameter(f"{value} is not a number")
    return value


def capacity_option(default: str) -> Any:
    """Return the option ``--capacity`` of a command with this default."""
    return typer.Option(
        parser=parse_size,
        metavar="SIZE",
        show_default=False,
        rich_help_panel=POOL,
        help=with_default("Size of the pool.", default),
    )


POOL, LAYOUT, TRACE, OUTPUT = "Pool", "Layout", "Trace", "Output"
"""The groups of options in the help. What belongs to one command alone has no group."""

DEFAULT_BACKEND = f"$KVPOOL_BACKEND or {registry.kind.default}"


def backend_names() -> list[str]:
    """Return the names that a shell offers for ``--backend``."""
    return list(registry.names())


def policy_names() -> list[str]:
    """Return the names that a shell offers for ``--policy``."""
    return list(policies.names())


WEEK = 7 * 24 * 3600
"""Seconds that a command waits at most; a system cannot wait for as long as any float says."""

RESERVED_TOKENS = "Tokens to reserve per session."

BackendOption = Annotated[
    str | None,
    typer.Option(
        autocompletion=backend_names,
        rich_help_panel=POOL,
        help=with_default("Storage backend; see `kvpool backends`.", DEFAULT_BACKEND),
    ),
]
CapacityOption = Annotated[int, capacity_option("512MiB")]
ElasticOption = Annotated[
    bool | None,
    typer.Option(
        "--elastic/--no-elastic",
        rich_help_panel=POOL,
        help=with_default(
            "Account by committed page or by whole block.", "by page if the backend can"
        ),
    ),
]
TraceArgument = Annotated[
    Path, typer.Argument(metavar="TRACE", help="Trace file, or - for standard input.")
]
MaxRequestsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        rich_help_panel=TRACE,
        help=with_default("Stop after this many requests.", "all of the trace"),
    ),
]
TraceFormatOption = Annotated[
    TraceFormat | None,
    typer.Option(
        "--format",
        rich_help_panel=TRACE,
        help=with_default("Trace format.", "detected from the first line"),
    ),
]
HashBlockTokensOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="TOKENS",
        rich_help_panel=TRACE,
        help=with_default("Tokens per hash block of a Mooncake trace.", "inferred"),
    ),
]
SkipBadOption = Annotated[
    bool,
    typer.Option(
        "--skip-bad",
        rich_help_panel=TRACE,
        help="Count malformed lines instead of stopping at the first.",
    ),
]
CsvOption = Annotated[
    bool, typer.Option("--csv", rich_help_panel=OUTPUT, help="Print one row of figures, as CSV.")
]
JsonOption = Annotated[bool, typer.Option("--json", rich_help_panel=OUTPUT, help="Print JSON.")]
