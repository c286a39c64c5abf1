"""``kvpool fsck``: look at every value of a tier, and remove those that are wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from kvpool._escaping import printable
from kvpool.cli._interrupts import EXIT_CODE, Interrupts
from kvpool.cli._options import JsonOption
from kvpool.cli._sizes import counted, format_size
from kvpool.cli._tiers.places import Place, PlaceArgument, opened
from kvpool.cli._work_bar import WorkBar
from kvpool.errors import DamagedTierError
from kvpool.tiers import Finding, TierReport, remove_wrong, verify_tier

__all__ = ["fsck", "shown_key"]

_SHOWN = 50
_DIGITS = 16  # of a name: enough to tell two apart
_HINT = "name the codec and its key in the URL, for example disk:/path?codec=aes-gcm;key=FILE"


@dataclass(slots=True)
class _Outcome:
    """What was found, and what was done about it."""

    report: TierReport
    structure: str = ""
    """What is wrong with the file itself."""
    removed: int = 0

    @property
    def is_clean(self) -> bool:
        return self.report.is_clean and not self.structure


def fsck(
    place: PlaceArgument,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Remove the wrong values; they can be computed again."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Look at every value of a tier: whether it is whole and of its name, and can be decoded.

    The exit code is 0 if all values are right, and 1 if
    some are wrong or cannot be judged, such as those of a
    newer version or of another key. These are never
    removed. A tier can be looked at while it is in use.
    """
    where = Place.of(place)
    try:
        with Interrupts():
            outcome = _look(where)
            if repair:
                _repair(where, outcome)
    except KeyboardInterrupt:
        typer.echo("kvpool: interrupted", err=True)
        raise typer.Exit(EXIT_CODE) from None
    if as_json:
        typer.echo(json.dumps(_document(where, outcome), indent=2))
    else:
        _print(where, outcome, repair=repair)
    if not outcome.is_clean:
        raise typer.Exit(1)


def _look(where: Place) -> _Outcome:
    with WorkBar("values") as bar:
        try:
            with opened(where, writing=False) as (tier, codec):
                return _Outcome(verify_tier(tier, codec, bar.show))
        except DamagedTierError as error:
            return _Outcome(TierReport(), str(error))


def _repair(where: Place, outcome: _Outcome) -> None:
    """Remove wrong values; a file whose structure is damaged is set aside when it is opened."""
    keys = outcome.report.wrong_keys
    if keys or outcome.structure:
        with opened(where, writing=True) as (tier, codec):
            outcome.removed = remove_wrong(tier, keys, codec)


def shown_key(key: bytes) -> str:
    """Return a key as people may read it: the namespace, and the first digits of the name.

    Examples
    --------
    >>> shown_key(b"c/" + bytes(32)), shown_key(b"key")
    ('c/0000000000000000', '6b6579')
    """
    return _whole_key(key)[: 2 + _DIGITS]


def _whole_key(key: bytes) -> str:
    if key[1:2] == b"/" and key[:1].isalpha():
        return f"{key[:2].decode()}{key[2:].hex()}"
    return key.hex()


def _document(where: Place, outcome: _Outcome) -> dict[str, object]:
    report = outcome.report
    return {
        "tier": where.name,
        "clean": outcome.is_clean,
        "structure": outcome.structure or None,
        "values": report.values,
        "bytes": report.nbytes,
        "chunks": report.chunks,
        "sessions": report.sessions,
        "tokens": report.tokens,
        "models": dict(report.models),
        "wrong": report.wrong,
        "unknown": report.unknown,
        "gone": report.gone,
        "reasons": dict(report.reasons),
        "removed": outcome.removed,
        "findings": [
            {
                "key": _whole_key(found.key),
                "bytes": found.nbytes,
                "reason": found.reason,
                "text": found.text,
                "wrong": found.is_wrong,
            }
            for found in report.findings
        ],
    }


def _print(where: Place, outcome: _Outcome, *, repair: bool) -> None:
    report = outcome.report
    console = Console(markup=False, highlight=False, emoji=False)
    for found in report.findings[:_SHOWN]:
        _print_finding(console, found)
    if report.wrong + report.unknown > _SHOWN:
        more = report.wrong + report.unknown - _SHOWN
        console.print(f"and {more:,} more; --json has the first 1,000\n")
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in (*_counts(where, report), *_faults(outcome)):
        table.add_row(name, text)
    if repair:
        table.add_row("removed", f"{outcome.removed:,}")
        if outcome.structure:
            table.add_row("set aside", "the file, as data.mdb.damaged; the tier is empty now")
    table.add_row("verdict", _verdict(outcome))
    console.print(table)


_Row = tuple[str, str]


def _counts(where: Place, report: TierReport) -> Iterator[_Row]:
    yield "tier", printable(where.name)
    yield "values", f"{report.values:,}, {format_size(report.nbytes)}"
    yield "chunks", f"{report.chunks:,} right, {counted(report.tokens, 'token')}"
    for model, count in report.models.most_common(_SHOWN):
        yield "", f"{count:,} of {printable(model)}"
    yield "sessions", f"{report.sessions:,} right"
    if report.gone:
        yield "gone", f"{counted(report.gone, 'value')} left meanwhile"


def _faults(outcome: _Outcome) -> Iterator[_Row]:
    report = outcome.report
    if report.unknown:
        yield "unjudged", f"{report.unknown:,}: {_reasons(report, is_wrong=False)}"
    if {"codec", "key"} & report.reasons.keys():
        yield "hint", _HINT
    if report.wrong:
        yield "wrong", f"{report.wrong:,}: {_reasons(report, is_wrong=True)}"
    if outcome.structure:
        yield "file", printable(outcome.structure)


def _print_finding(console: Console, found: Finding) -> None:
    kind = found.reason if found.is_wrong else f"{found.reason}, not judged"
    console.print(f"{shown_key(found.key)}  {kind}, {format_size(found.nbytes)}")
    console.print(Padding(Text(printable(found.text), overflow="fold"), (0, 0, 1, 2)))


def _reasons(report: TierReport, *, is_wrong: bool) -> str:
    unjudged = {found.reason for found in report.findings if not found.is_wrong}
    return ", ".join(
        f"{reason} {count:,}"
        for reason, count in report.reasons.most_common()
        if (reason not in unjudged) is is_wrong
    )


def _verdict(outcome: _Outcome) -> Text:
    if outcome.is_clean:
        return Text("ok", "green")
    if outcome.report.wrong or outcome.structure:
        return Text("FAILED", "red")
    return Text("not all values could be judged", "yellow")
