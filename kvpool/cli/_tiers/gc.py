"""``kvpool gc``: make a tier on a disk smaller."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from kvpool.cli._interrupts import EXIT_CODE, Interrupts
from kvpool.cli._options import JsonOption, with_default
from kvpool.cli._sizes import format_size, parse_size
from kvpool.cli._tiers.places import Place, opened
from kvpool.errors import TierError
from kvpool.tiers.disk import MIN_CAPACITY, DiskTier

__all__ = ["gc"]

_BESIDE = 64 << 10  # bytes of a file that are not those of values


class _Sizes(NamedTuple):
    """How large a tier is."""

    values: int
    """How many."""
    nbytes: int
    """Bytes of the pages in use."""
    file: int
    """Bytes."""


def gc(
    place: Annotated[
        str,
        typer.Argument(
            metavar="PATH", show_default=False, help="Directory of a tier on a disk, or its URL."
        ),
    ],
    capacity: Annotated[
        int | None,
        typer.Option(
            parser=parse_size,
            metavar="SIZE",
            show_default=False,
            help=with_default(
                "Evict the least recently used values until the file has at most this size.",
                "evict nothing",
            ),
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make the file of a tier on a disk as small as its values.

    The file is written anew beside the old one, so the disk
    needs room for both, and no other process may use the
    tier meanwhile. Values are evicted also while it is in
    use.
    """
    where = Place.of(place)
    path = where.path
    if where.scheme != "disk" or path is None:
        raise typer.BadParameter(f"{where.name!r} is not a tier on a disk, as disk:/path is")
    if capacity is not None and capacity < MIN_CAPACITY:
        raise typer.BadParameter(f"--capacity must be at least {format_size(MIN_CAPACITY)}")
    try:
        with Interrupts(), opened(where, writing=True) as (tier, _):
            if not isinstance(tier, DiskTier):
                raise typer.BadParameter(f"{where.name!r} is another tier than that of kvpool")
            before, evicted, trouble = _collect(tier, path, capacity)
            after = _sizes(tier, path)
    except KeyboardInterrupt:
        typer.echo("kvpool: interrupted", err=True)
        raise typer.Exit(EXIT_CODE) from None
    if as_json:
        sizes = {"before": before._asdict(), "after": after._asdict()}
        typer.echo(json.dumps({"tier": where.name, "evicted": evicted, **sizes}, indent=2))
    else:
        _print(before, after)
    if trouble is not None:
        raise trouble


def _collect(
    tier: DiskTier, path: Path, capacity: int | None
) -> tuple[_Sizes, int, TierError | None]:
    """Evict and compact; return the sizes before, the evicted values, and what went wrong."""
    before, evicted = _sizes(tier, path), 0
    console = Console(stderr=True, markup=False, highlight=False, emoji=False)
    with console.status("compact"):
        if capacity is not None:
            evicted = tier.evict(capacity - _BESIDE)
        try:
            tier.compact()
        except TierError as error:  # what was evicted is to be told all the same
            return before, evicted, error
    return before, evicted, None


def _sizes(tier: DiskTier, path: Path) -> _Sizes:
    stats = tier.stats()
    return _Sizes(stats.values or 0, stats.nbytes or 0, (path / "data.mdb").stat().st_size)


def _print(before: _Sizes, after: _Sizes) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    table.add_column("before", justify="right", no_wrap=True)
    table.add_column("after", justify="right", no_wrap=True)
    table.add_row("values", f"{before.values:,}", f"{after.values:,}")
    table.add_row("in use", format_size(before.nbytes), format_size(after.nbytes))
    table.add_row("file", format_size(before.file), format_size(after.file))
    Console(markup=False, highlight=False, emoji=False).print(table)
