"""What a server tells of its tiers, read from its metrics."""

from __future__ import annotations

from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kvpool._escaping import printable
from kvpool.cli._scrape import Scrape
from kvpool.cli._sizes import format_size
from kvpool.cli._tables import Fitted

__all__ = ["ESTIMATED_TOKENS", "ServedLevel", "print_levels", "served_levels"]

ESTIMATED_TOKENS = 1000
"""Tokens for which it is shown how long a load and the model take."""

_STATES = {"closed": "green", "open": "red", "half-open": "yellow"}


class ServedLevel(NamedTuple):
    """The figures of one level of the tiers of a server, since it began.

    Parameters
    ----------
    tier : str
        Its name.
    breaker : str
        The state of the breaker.
    hits : int
        Chunks that were loaded.
    misses : dict of str to int
        Chunks that were not, by the reason.
    tokens, nbytes : int
        Tokens that were loaded, and the bytes of their keys and values.
    seconds : float
        How long the loads took.
    load_seconds, compute_seconds : float or None
        How long the last loads would take for `ESTIMATED_TOKENS` tokens, and the model to compute
        them; None if it is not known.
    writes : dict of str to int
        Chunks to be written, by what became of them.
    queued_nbytes : int
        Bytes that wait to be written.
    values, used, capacity : int or None
        What the tier holds, if it can tell.
    """

    tier: str
    breaker: str
    hits: int
    misses: dict[str, int]
    tokens: int
    nbytes: int
    seconds: float
    load_seconds: float | None
    compute_seconds: float | None
    writes: dict[str, int]
    queued_nbytes: int
    values: int | None
    used: int | None
    capacity: int | None

    @property
    def hit_ratio(self) -> float | None:
        """Loaded chunks / chunks that were asked for; None before the first."""
        asked = self.hits + sum(self.misses.values())
        return self.hits / asked if asked else None

    @property
    def bandwidth(self) -> float | None:
        """Bytes loaded per second; None before the first."""
        return self.nbytes / self.seconds if self.seconds else None


def served_levels(scrape: Scrape) -> list[ServedLevel]:
    """Return the levels of the tiers of a server, the first one first."""
    levels = scrape.by("kvpool_tier_queued_bytes", "level")
    return [_level(scrape, level) for level in sorted(levels, key=lambda text: (len(text), text))]


def _level(scrape: Scrape, level: str) -> ServedLevel:
    def total(name: str) -> int:
        return int(scrape.total(f"kvpool_tier_{name}", level=level))

    def maybe(name: str) -> int | None:
        levels = scrape.by(f"kvpool_tier_{name}", "level")
        return int(levels[level]) if level in levels else None

    def by(name: str, label: str) -> dict[str, int]:
        values = scrape.by(f"kvpool_tier_{name}", label, level=level)
        return {value: int(count) for value, count in values.items()}

    def rate(name: str) -> float | None:
        return scrape.by(f"kvpool_tier_{name}", "level").get(level) or None

    lookups = by("lookups_total", "result")
    states = by("breaker", "state")
    tokens, nbytes = total("loaded_tokens_total"), total("read_bytes_total")
    bandwidth, compute_rate = rate("bandwidth_bytes_per_second"), rate("compute_tokens_per_second")
    return ServedLevel(
        tier=next(iter(scrape.by("kvpool_tier_queued_bytes", "url", level=level)), ""),
        breaker=next((state for state, is_on in states.items() if is_on), "unknown"),
        hits=lookups.pop("hit", 0),
        misses=lookups,
        tokens=tokens,
        nbytes=nbytes,
        seconds=scrape.total("kvpool_tier_load_seconds_total", level=level),
        load_seconds=(
            ESTIMATED_TOKENS * nbytes / tokens / bandwidth
            if bandwidth is not None and tokens
            else None
        ),
        compute_seconds=None if compute_rate is None else ESTIMATED_TOKENS / compute_rate,
        writes=by("writes_total", "outcome"),
        queued_nbytes=total("queued_bytes"),
        values=maybe("values"),
        used=maybe("used_bytes"),
        capacity=maybe("capacity_bytes"),
    )


def print_levels(console: Console, levels: list[ServedLevel], server: str) -> None:
    """Print the levels of the tiers of a server."""
    if not levels:
        console.print(f"{server} has no tiers.")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("tier", overflow="fold", min_width=20)
    table.add_column("breaker", no_wrap=True)
    for name in ("hits", "hit rate", "tokens", "loaded", "load rate", "stored", "dropped"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("waiting", justify="right", no_wrap=True)
    for one in levels:
        table.add_row(
            printable(one.tier),
            Text(printable(one.breaker), _STATES.get(one.breaker, "")),
            f"{one.hits:,}",
            "-" if one.hit_ratio is None else f"{one.hit_ratio:.0%}",
            f"{one.tokens:,}",
            format_size(one.nbytes),
            "-" if one.bandwidth is None else f"{format_size(int(one.bandwidth))}/s",
            f"{one.writes.get('stored', 0):,}",
            f"{one.writes.get('dropped', 0):,}",
            format_size(one.queued_nbytes),
        )
    console.print(Fitted(table))
    for one in levels:
        missed = [f"{printable(reason)} {count:,}" for reason, count in one.misses.items() if count]
        if missed:
            console.print(f"{printable(one.tier)} missed: {', '.join(missed)}")
    for one in levels:
        console.print(f"{printable(one.tier)}: {_estimate(one)}")


def _estimate(level: ServedLevel) -> str:
    """Return what a load is decided by: how long it takes, and how long the model does."""
    load, compute = level.load_seconds, level.compute_seconds
    spans = [
        f"{_span(seconds)} to {verb}"
        for seconds, verb in ((load, "load"), (compute, "compute"))
        if seconds is not None
    ]
    if not spans:
        return "neither loads nor the model are measured yet, so loads are tried"
    shown = f"{ESTIMATED_TOKENS:,} tokens take about {' and '.join(spans)}"
    if load is None:
        return f"{shown}; no load is measured yet, so loads are tried"
    if compute is None:
        return f"{shown}; the model is not measured yet, so loads are tried"
    return (
        shown if load <= compute else f"{shown}: most loads are declined, unless it has decline=no"
    )


def _span(seconds: float) -> str:
    return f"{seconds:,.1f} s" if seconds >= 1 else f"{seconds * 1000:,.3g} ms"
