"""``kvpool demo``: the story of a pool in a few seconds, drawn as it happens."""

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
from kvpool.cli._interrupts import Interrupts
from kvpool.cli._replay_outcome import conclude, print_report
from kvpool.cli._sizes import format_size
from kvpool.cli._stages import LiveStage, PrintedStage, Stage
from kvpool.eviction.base import EvictionReason
from kvpool.layout import KVLayout
from kvpool.pool import ElasticPool, MemoryBlock, MemoryPool
from kvpool.replay import BLOCK_TOKENS, Replay, conversations
from kvpool.stats import PoolStats

__all__ = ["demo"]

LAYOUT = KVLayout(layers=2, kv_heads=2, head_dim=64, dtype="float16")
CAPACITY = 20 << 20
TTL = 300.0  # seconds of the story's clock


@dataclass(frozen=True, slots=True)
class Chapter:
    """A part of the story.

    Attributes
    ----------
    title : str
        What is to be seen.
    requests : int
    pause : float
        Seconds of the story's clock in which nothing happens before.
    branches : int
        Forks of the longest conversation, after the requests.
    """

    title: str
    requests: int
    pause: float = 0.0
    branches: int = 0

    @property
    def steps(self) -> int:
        """Requests and branches."""
        return self.requests + self.branches


STORY = (
    Chapter("Sessions arrive; each has its part, as long as its tokens.", 36),
    Chapter("The pool is full: who was idle for the longest time goes (LRU).", 84),
    Chapter("A pause of 260 s: who was idle for 300 s has expired (TTL).", 1, pause=260),
    Chapter("Sessions come back: what is still held is not written again.", 39),
    Chapter("The longest one branches; its forks keep three quarters of it.", 0, branches=4),
)


def demo(
    backend: Annotated[
        str | None, typer.Option(help="Who holds the bytes; by default, `kvpool backends` tells.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0, max=60, help="How long it lasts in a terminal, about.")
    ] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Serve generated conversations out of a small pool, and draw its arena."""
    console = Console(markup=False, highlight=False, emoji=False)
    with Replay(LAYOUT, CAPACITY, backend, ttl=TTL, block_tokens=BLOCK_TOKENS) as run:
        scene = _Scene(run, rows=_rows(console))
        stage = Stage() if as_json else _stage(console, scene, seconds)
        interrupted = _play(run, stage)
        report = run.report()
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=2))
    else:
        print_report(console, report, "Generated conversations, every byte checked")
    conclude(report, interrupted)


def _stage(console: Console, scene: _Scene, seconds: float) -> Stage:
    if not console.is_terminal or console.is_dumb_terminal:
        return PrintedStage(console, scene)
    steps = sum(chapter.steps for chapter in STORY)
    # Two thirds of the time for the steps, one for what each chapter came to.
    return LiveStage(console, scene, seconds * 2 / 3 / steps, seconds / 3 / len(STORY))


def _rows(console: Console) -> int:
    """Return the rows of the map: the table below it should still be on the same screen."""
    return min(max(console.height - 19, 5), 12) if console.is_terminal else 6


def _play(run: Replay, stage: Stage) -> bool:
    """Tell the story; return whether Ctrl-C came before its end."""
    requests = conversations(sum(chapter.requests for chapter in STORY))
    pause = 0.0
    try:
        with Interrupts() as interrupts, stage:
            for chapter in STORY:
                stage.begin(chapter.title)
                pause += chapter.pause
                for request in itertools.islice(requests, chapter.requests):
                    with interrupts.step():
                        run.serve(replace(request, arrival=request.arrival + pause))
                    stage.step()
                longest = max(run.sessions(), key=lambda session: session.request.tokens)
                for _ in range(chapter.branches):
                    with interrupts.step():
                        run.branch(longest, longest.request.tokens * 3 // 4)
                    stage.step()
                stage.end()
            with interrupts.step():
                run.finish()
    except KeyboardInterrupt:
        return True
    return False


@dataclass(frozen=True, slots=True)
class _Scene:
    """What is to be seen of a replay: the map of its arena, and a few figures."""

    run: Replay
    rows: int

    def __call__(self, title: str) -> RenderableType:
        """Return the present scene, under a title."""
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
    if isinstance(pool, ElasticPool):
        return charges(pool.usage(), owners, pool.capacity)
    return segments(pool.ranges(), owners)


def _forks(pool: MemoryPool, stats: PoolStats) -> Iterator[str]:
    """Yield what is to be said of forks, if there are any."""
    if stats.copied_forks:
        yield f"{stats.copied_forks} forks are copies: this arena cannot share pages."
    if stats.forks:
        forks = [usage for usage in pool.usage() if usage.is_fork]
        shared = format_size(sum(usage.shared for usage in forks))
        own = format_size(sum(usage.committed for usage in forks))
        yield f"{stats.forks} forks show {shared} of the other's pages; {own} are their own."
