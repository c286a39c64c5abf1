"""``kvpool sessions``: the sessions that a tier keeps by their names."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kvpool._escaping import printable
from kvpool.cache_key import CacheKey
from kvpool.cli._ages import age_text
from kvpool.cli._interrupts import EXIT_CODE, Interrupts
from kvpool.cli._options import JsonOption, with_default
from kvpool.cli._sizes import counted
from kvpool.cli._tiers.places import Place, PlaceArgument, opened
from kvpool.errors import InvalidArgumentError
from kvpool.tiers import StoredSession, remove_session, stored_sessions

__all__ = ["sessions"]

_SECOND = 1_000_000_000  # nanoseconds


def sessions(
    place: PlaceArgument,
    remove: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            show_default=False,
            help=with_default("Forget the session of this key, of every model.", "forget nothing"),
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the sessions that a tier keeps by their keys, the newest first.

    A session can go on in another process: see `docs/tiers.md`.
    Sessions of a tier with a cipher are listed if the URL
    names its codec and key. What --remove forgets is the
    name: the keys and values stay until they are evicted.
    """
    where = Place.of(place)
    key = None if remove is None else _parsed(remove)
    try:
        with Interrupts(), opened(where, writing=key is not None) as (tier, codec):
            found = sorted(stored_sessions(tier, codec), key=_when, reverse=True)
            if key is not None:
                found = [one for one in found if one.key == key]
                if not found:
                    raise typer.BadParameter(f"{where.name} has no session {str(key)!r}")
                for one in found:
                    remove_session(tier, one.name)
    except KeyboardInterrupt:
        typer.echo("kvpool: interrupted", err=True)
        raise typer.Exit(EXIT_CODE) from None
    if as_json:
        listed = [_document(one) for one in found]
        typer.echo(json.dumps({"tier": where.name, "sessions": listed}, indent=2))
    elif key is not None:
        typer.echo(f"forgotten: {counted(len(found), 'session')} {printable(str(key))}")
    else:
        _print(where, found)


def _parsed(text: str) -> CacheKey:
    try:
        return CacheKey.parse(text)
    except InvalidArgumentError as error:
        raise typer.BadParameter(str(error), param_hint="--remove") from error


def _when(session: StoredSession) -> int:
    return session.when


def _document(session: StoredSession) -> dict[str, object]:
    return {
        "key": str(session.key),
        "model": session.model_id,
        "tokens": len(session.tokens),
        "closed": datetime.fromtimestamp(session.when / _SECOND, UTC).isoformat(),
        "layers": session.layers,
        "kv_heads": session.kv_heads,
        "head_dim": session.head_dim,
        "dtype": session.dtype,
    }


def _print(where: Place, found: list[StoredSession]) -> None:
    console = Console(markup=False, highlight=False, emoji=False)
    if not found:
        console.print(f"{printable(where.name)} keeps no session by its key")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("session", overflow="fold")
    table.add_column("model", overflow="fold")
    table.add_column("tokens", justify="right", no_wrap=True)
    table.add_column("closed", justify="right", no_wrap=True)
    now = time.time_ns()
    for one in found:
        table.add_row(
            Text(printable(str(one.key))),
            Text(printable(one.model_id) or "-"),
            f"{len(one.tokens):,}",
            age_text(max(now - one.when, 0) / _SECOND),
        )
    console.print(table)
