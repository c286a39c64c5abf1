"""``kvpool map``: what sessions reserve, commit and share, drawn from a short run."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console, Group
from rich.text import Text

from kvpool.cache_key import CacheKey
from kvpool.cli._arena_map import ArenaMap, charges
from kvpool.cli._picture import save_svg
from kvpool.cli._session_bars import SessionBar, SessionBars
from kvpool.cli._sizes import format_size, parse_size
from kvpool.entry import KVCacheEntry
from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager
from kvpool.pool import BlockUsage, ElasticPool

__all__ = ["memory_map"]

LAYOUT = KVLayout(layers=2, kv_heads=2, head_dim=128, dtype="float16")
_TOKENS, _TOKENS_AFTER_A_FORK = 400, 60  # the medians
_ROWS = 4


def memory_map(
    backend: Annotated[
        str | None, typer.Option(help="Who holds the bytes; by default, `kvpool backends` tells.")
    ] = None,
    sessions: Annotated[int, typer.Option(min=1, max=40, help="Conversations.")] = 5,
    forks: Annotated[int, typer.Option(min=0, max=40, help="Branches of them.")] = 4,
    max_context: Annotated[
        int, typer.Option(min=1, metavar="TOKENS", help="Reserved for each conversation.")
    ] = 1024,
    capacity: Annotated[
        int,
        typer.Option(parser=parse_size, metavar="SIZE", show_default="16MiB", help="Of the pool."),
    ] = 16 << 20,
    elastic: Annotated[
        bool | None,
        typer.Option(
            "--elastic/--no-elastic", help="Charge pages or whole blocks; by default as can be."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Another one makes other conversations.")] = 0,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE.svg", help="Write a picture as well."),
    ] = None,
) -> None:
    """Draw what generated conversations and their branches reserve, commit and share."""
    if output is not None and output.suffix.lower() != ".svg":
        raise typer.BadParameter(f"{str(output)!r} does not end with .svg", param_hint="--output")
    with KVCacheManager(capacity, backend, LAYOUT, receipts=False, elastic=elastic) as manager:
        story = _Story(manager, max_context, seed)
        for _ in range(sessions):
            story.open()
        for _ in range(forks):
            story.branch()
        scene = story.scene()
        Console(markup=False, highlight=False, emoji=False).print(scene)
        if output is not None:
            _save(scene, output)


def _save(scene: Group, path: Path) -> None:
    try:
        save_svg(scene, path, "kvpool map")
    except OSError as error:
        typer.echo(f"kvpool: cannot write {path}: {error.strerror or error}", err=True)
        raise typer.Exit(1) from None


class _Story:
    """Conversations that begin, branch and go on, with real bytes."""

    def __init__(self, manager: KVCacheManager, max_context: int, seed: int) -> None:
        self._manager = manager
        self._max_context = max_context
        self._dice = random.Random(seed)
        self._sessions: list[tuple[str, KVCacheEntry]] = []  # the present ones and those gone

    def open(self) -> None:
        """Begin a conversation."""
        key = CacheKey("map", len(self._sessions))
        entry = self._manager.create_cache_entry(key, self._max_context)
        self._sessions.append((f"{key.id}", entry))
        self._say(entry, _TOKENS)

    def branch(self) -> None:
        """Fork a conversation, or a fork of one; both go on."""
        parent = self._dice.choice(self._manager.session_keys())
        key = CacheKey("map", len(self._sessions))
        fork = self._manager.fork_cache_entry(parent, key)
        self._sessions.append((f"{key.id} of {parent.id}", fork))
        for spoken in (key, parent):
            if spoken in self._manager:  # the one may have had to go for the other's tokens
                self._say(self._sessions[int(spoken.id)][1], _TOKENS_AFTER_A_FORK)

    def _say(self, entry: KVCacheEntry, median: int) -> None:
        wanted = max(round(self._dice.lognormvariate(0, 0.6) * median), 1)
        count = min(wanted, self._max_context - entry.token_count)
        if count:
            tokens = np.ones((LAYOUT.layers, LAYOUT.kv_heads, count, LAYOUT.head_dim), np.float16)
            entry.extend(tokens, tokens)

    # -- what is to be seen --------------------------------------------------------------

    def scene(self) -> Group:
        """Return the bars of the sessions, and the map of the budget."""
        pool = self._manager.pool
        numbers = {entry.block: number for number, (_, entry) in enumerate(self._sessions)}
        usages = sorted(
            pool.usage(), key=lambda one: (one.block.offset, one.is_fork, numbers[one.block])
        )
        bars = [self._bar(numbers[usage.block], usage) for usage in usages]
        return Group(
            Text(f"What each session has ({pool.arena_info.backend}, layout {LAYOUT})", "bold"),
            SessionBars(bars),
            Text(f"\nWho is charged with the budget of {format_size(pool.capacity)}", "bold"),
            ArenaMap(charges(usages, numbers, pool.capacity), _ROWS),
            *map(Text, self._notes(usages)),
        )

    def _bar(self, number: int, usage: BlockUsage) -> SessionBar:
        name, entry = self._sessions[number]
        if usage.is_live:
            return SessionBar(name, entry.token_count, usage)
        return SessionBar(f"{name} (gone)", None, usage)

    def _notes(self, usages: list[BlockUsage]) -> Iterator[str]:
        """Yield what the drawing cannot say."""
        pool, stats = self._manager.pool, self._manager.get_stats()
        yield (
            f"{format_size(stats.used_memory)} are charged, of "
            f"{format_size(stats.reserved_memory)} of addresses; "
            f"sessions evicted: {stats.evictions}."
        )
        if stats.copied_forks:
            yield f"{stats.copied_forks} forks are copies: nothing is shared here."
        system = pool.committed_bytes() if isinstance(pool, ElasticPool) else None
        if system is not None:
            arena = sum(usage.committed for usage in usages if not usage.is_fork)
            yield (
                f"Without the forks' own pages that is {arena:,} bytes; the system says {system:,}."
            )
