"""``kvpool demo``: draw the arena of a small pool while generated requests are served."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.text import Text

from kvpool.cli._arena_map import ArenaMap, Segment, charges, segments
from kvpool.cli._displays import Display, LiveDisplay, PrintedDisplay
from kvpool.cli._interrupts import Interrupts
from kvpool.cli._options import BackendOption, JsonOption, a_number
from kvpool.cli._replay_outcome import conclude, print_report
from kvpool.cli._sizes import format_size
from kvpool.eviction.base import EvictionReason
from kvpool.layout import KVLayout
from kvpool.pool import MemoryBlock, MemoryPool
from kvpool.replay import HASH_BLOCK_TOKENS, Replay, conversations
from kvpool.stats import PoolStats

__all__ = ["demo"]

LAYOUT = KVLayout(layers=2, kv_heads=2, head_dim=64, dtype="float16")
CAPACITY = 20 << 20
TTL = 300.0  # seconds between arrivals of requests, not of real time


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the demo.

    Attributes
    ----------
    title : str
        What the drawing shows.
    requests : int
        How many requests are served.
    pause : float
        Seconds without requests before the phase, in the time of the requests.
    branches : int
        How often the longest conversation is forked, after the requests.
    """

    title: str
    requests: int
    pause: float = 0.0
    branches: int = 0

    @property
    def steps(self) -> int:
        """How many requests and forks there are."""
        return self.requests + self.branches


PHASES = (
    Phase("Sessions arrive. Each takes memory for the tokens that it has.", 36),
    Phase("The pool is full. The least recently used sessions are evicted (LRU).", 84),
    Phase("After a pause of 260 s, sessions idle for 300 s have expired (TTL).", 1, pause=260),
    Phase("Sessions return. Tokens that the pool still holds are not written again.", 39),
    Phase("The longest session is forked. Each fork keeps three quarters of it.", 0, branches=4),
)


def demo(
    backend: BackendOption = None,
    seconds: Annotated[
        float,
        typer.Option(min=0, max=60, callback=a_number, help="Approximate duration in a terminal."),
    ] = 5.0,
    as_json: JsonOption = False,
) -> None:
    """Serve generated conversations from a small pool, and draw its arena."""
    console = Console(markup=False, highlight=False, emoji=False)
    with Replay(LAYOUT, CAPACITY, backend, ttl=TTL, hash_block_tokens=HASH_BLOCK_TOKENS) as run:
        drawing = _Drawing(run, rows=_rows(console))
        display = Display() if as_json else _display(console, drawing, seconds)
        interrupted = _play(run, display)
        report = run.report()
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=2))
    else:
        print_report(console, report, "Generated conversations, every byte checked")
    conclude(report, interrupted)


def _display(console: Console, drawing: _Drawing, seconds: float) -> Display:
    if not console.is_terminal or console.is_dumb_terminal:
        return PrintedDisplay(console, drawing)
    steps = sum(phase.steps for phase in PHASES)
    # Two thirds of the time show the steps, one third shows the end of each phase.
    return LiveDisplay(console, drawing, seconds * 2 / 3 / steps, seconds / 3 / len(PHASES))


def _rows(console: Console) -> int:
    """Return the rows of the map that leave space for the table below it on one screen."""
    return min(max(console.height - 19, 5), 12) if console.is_terminal else 6


def _play(run: Replay, display: Display) -> bool:
    """Run all phases; return whether Ctrl-C stopped the demo before the end."""
    requests = conversations(sum(phase.requests for phase in PHASES))
    pause = 0.0
    try:
        with Interrupts() as interrupts, display:
            for phase in PHASES:
                display.begin(phase.title)
                pause += phase.pause
                for request in itertools.islice(requests, phase.requests):
                    with interrupts.step():
                        run.serve(replace(request, arrival=request.arrival + pause))
                    display.step()
                longest = max(run.sessions(), key=lambda session: session.request.tokens)
                for _ in range(phase.branches):
                    with interrupts.step():
                        run.branch(longest, longest.request.tokens * 3 // 4)
                    display.step()
                display.end()
            with interrupts.step():
                run.finish()
    except KeyboardInterrupt:
        return True
    return False


@dataclass(frozen=True, slots=True)
class _Drawing:
    """Draws the arena of a replay, with a few figures."""

    run: Replay
    rows: int

    def __call__(self, title: str) -> RenderableType:
        """Return the drawing of this moment, with a title."""
        run = self.run
        owners = {session.entry.block: int(session.key.id) for session in run.sessions()}
        tally, stats = run.report().tally, run.manager.get_stats()
        gone = stats.evictions_by_reason
        return Group(
            Text(title, "bold"),
            ArenaMap(_parts(run.manager.pool, owners), self.rows),
            Text(
                f"{tally.requests} requests, {stats.hits} hits, {stats.active_entries} sessions; "
                f"evicted: {gone[EvictionReason.LRU]} lru, {gone[EvictionReason.TTL]} ttl; "
                f"{format_size(tally.verified_bytes)} checked"
            ),
            *map(Text, _forks(run.manager.pool, stats)),
        )


def _parts(pool: MemoryPool, owners: dict[MemoryBlock, int]) -> list[Segment]:
    if pool.is_elastic:
        return charges(pool.usage(), owners, pool.capacity)
    return segments(pool.ranges(), owners)


def _forks(pool: MemoryPool, stats: PoolStats) -> Iterator[str]:
    """Yield a line on the forks that are copies, and one on those that share pages."""
    if stats.copied_forks:
        yield f"{stats.copied_forks} forks are copies: this arena cannot share pages."
    if stats.forks:
        forks = [usage for usage in pool.usage() if usage.is_fork]
        shared = format_size(sum(usage.shared for usage in forks))
        own = format_size(sum(usage.committed for usage in forks))
        yield f"{stats.forks} forks share {shared} of pages and have {own} of their own."
