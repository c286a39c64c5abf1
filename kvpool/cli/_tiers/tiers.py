"""``kvpool tiers``: which tiers there are, and in which condition some of them are."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer
from rich.console import Console

from kvpool.cli._interrupts import EXIT_CODE, Interrupts
from kvpool.cli._options import JsonOption
from kvpool.cli._scrape import Scrape, Source
from kvpool.cli._server_options import ApiKeyFileOption, first_key, server_address
from kvpool.cli._tiers.condition import (
    Condition,
    condition_document,
    condition_of,
    print_conditions,
)
from kvpool.cli._tiers.kinds import kinds_document, print_kinds
from kvpool.cli._tiers.places import Place
from kvpool.cli._tiers.server import ServedLevel, print_levels, served_levels

__all__ = ["tiers"]


def tiers(
    url: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="URL",
            show_default=False,
            help="Tiers to look at, as URLs or as directories of tiers on a disk.",
        ),
    ] = None,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe",
            help="Measure the bandwidth: write 24 MiB into each, read and remove them. "
            "A full tier evicts other values for that.",
        ),
    ] = False,
    server: Annotated[
        str | None,
        typer.Option(
            parser=server_address,
            metavar="ADDRESS",
            show_default=False,
            help="Show the tiers of a running `kvpool serve`, from its metrics.",
        ),
    ] = None,
    api_key_file: ApiKeyFileOption = None,
    options: Annotated[
        bool, typer.Option("--options", help="Also list the options of tiers and codecs.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List the kinds of tiers; with a URL or a server, show the condition of its tiers.

    The exit code is 1 if one of the tiers cannot be used.
    """
    if probe and not url:
        raise typer.BadParameter("--probe needs the URL of a tier")
    places = [Place.of(one) for one in url or ()]
    try:
        with Interrupts():
            levels = None if server is None else _levels(server, first_key(api_key_file))
            conditions = [condition_of(place, probe=probe) for place in places]
    except KeyboardInterrupt:
        typer.echo("kvpool: interrupted", err=True)
        raise typer.Exit(EXIT_CODE) from None
    lists_kinds = options or not (places or server)
    if as_json:
        typer.echo(json.dumps(_document(conditions, levels, lists_kinds=lists_kinds), indent=2))
    else:
        console = Console(markup=False, highlight=False, emoji=False)
        if lists_kinds:
            print_kinds(console, options=options)
        if conditions:
            print_conditions(console, conditions)
        if levels is not None:
            print_levels(console, levels, f"{server}".removesuffix("/metrics"))
    if any(condition.trouble for condition in conditions):
        raise typer.Exit(1)


def _levels(server: str, key: str | None) -> list[ServedLevel]:
    return served_levels(Scrape(Source(server, key).read(), time.monotonic()))


def _document(
    conditions: list[Condition], levels: list[ServedLevel] | None, *, lists_kinds: bool
) -> dict[str, object]:
    document: dict[str, object] = kinds_document() if lists_kinds else {}
    if conditions:
        document["tiers"] = [condition_document(condition) for condition in conditions]
    if levels is not None:
        document["served"] = [
            {**level._asdict(), "hit_ratio": level.hit_ratio, "bandwidth": level.bandwidth}
            for level in levels
        ]
    return document
