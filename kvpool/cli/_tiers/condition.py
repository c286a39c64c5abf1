"""The condition of one tier: whether it answers, what it holds, and how fast it is."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kvpool._escaping import printable
from kvpool.cli._sizes import format_size
from kvpool.cli._tables import Fitted
from kvpool.cli._tiers.places import Place, opened
from kvpool.errors import KVPoolError
from kvpool.tiers import Breaker, ProbeResult, Tier, TierStats, probe_tier

__all__ = ["Condition", "condition_document", "condition_of", "print_conditions"]

BUDGET = 5.0
"""Seconds that a tier has to answer."""
_KEY = b"p/a look whether the tier answers"


class _Answer(NamedTuple):
    stats: TierStats
    latency: float


@dataclass(frozen=True, slots=True)
class Condition:
    """What a tier tells of itself.

    Parameters
    ----------
    name, codec : str
    trouble : str
        Why it cannot be used; empty if it can.
    stats : TierStats or None
    latency : float or None
        Seconds that it needs to look for one value.
    probe : ProbeResult or None
    """

    name: str
    codec: str
    trouble: str = ""
    stats: TierStats | None = None
    latency: float | None = None
    probe: ProbeResult | None = None


def condition_of(place: Place, *, probe: bool) -> Condition:
    """Ask a tier, for a few seconds at most.

    Parameters
    ----------
    place : Place
    probe : bool
        Whether to measure its bandwidth: some values are written, read and removed.
    """
    codec = place.options.get("codec", "none").partition(";")[0]
    try:
        with opened(place, writing=probe) as (tier, _):
            answer = _ask(tier)
            if answer is None:
                return Condition(place.name, codec, f"no answer in {BUDGET:g} s")
            measured = probe_tier(tier) if probe else None
            return Condition(tier.name, codec, "", answer.stats, answer.latency, measured)
    except KVPoolError as error:
        return Condition(place.name, codec, str(error))


def _ask(tier: Tier) -> _Answer | None:
    """Return what a tier answers; None if it does not within some seconds.

    Raises
    ------
    KVPoolError
        The tier cannot be read.
    """
    errors: list[KVPoolError] = []

    def ask(asked: Tier) -> _Answer | None:
        try:
            begun = time.perf_counter()
            asked.contains([_KEY])
            return _Answer(asked.stats(), time.perf_counter() - begun)
        except KVPoolError as error:
            errors.append(error)
            return None

    answer = Breaker(tier, BUDGET).call(ask, None)
    if errors:
        raise errors[0]
    return answer


def condition_document(condition: Condition) -> dict[str, object]:
    """Return the condition of a tier as JSON has it."""
    stats, probe = condition.stats, condition.probe
    return {
        "tier": condition.name,
        "codec": condition.codec,
        "state": "unreachable" if condition.trouble else "reachable",
        "trouble": condition.trouble or None,
        "values": stats.values if stats else None,
        "bytes": stats.nbytes if stats else None,
        "capacity": stats.capacity if stats else None,
        "latency_seconds": condition.latency,
        "probe": None if probe is None else probe._asdict(),
    }


def print_conditions(console: Console, conditions: list[Condition]) -> None:
    """Print a table of tiers, and below it why some cannot be used."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("tier", overflow="fold", min_width=20)
    table.add_column("state", no_wrap=True)
    names = ["values", "size", "capacity", "latency"]
    is_measured = any(condition.probe for condition in conditions)
    for name in names + ["write", "read"] * is_measured:
        table.add_column(name, justify="right", no_wrap=True)
    for condition in conditions:
        stats, probe = condition.stats, condition.probe
        cells = [
            "-" if stats is None or stats.values is None else f"{stats.values:,}",
            _size(None if stats is None else stats.nbytes),
            _size(None if stats is None else stats.capacity),
            "-" if condition.latency is None else f"{condition.latency * 1000:,.2f} ms",
        ]
        if is_measured:
            cells += [_rate(probe and probe.write_bandwidth), _rate(probe and probe.read_bandwidth)]
        state = Text("unreachable", "red") if condition.trouble else Text("reachable", "green")
        table.add_row(printable(condition.name), state, *cells)
    console.print(Fitted(table))
    for condition in conditions:
        if condition.trouble:
            console.print(f"{printable(condition.name)}: {printable(condition.trouble)}")


def _size(nbytes: int | None) -> str:
    return "-" if nbytes is None else format_size(nbytes)


def _rate(bandwidth: float | None) -> str:
    return "-" if bandwidth is None else f"{format_size(int(bandwidth))}/s"
