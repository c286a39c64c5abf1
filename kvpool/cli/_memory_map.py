"""``kvpool map``: draw what sessions reserve, commit and share, after a short run."""

from __future__ import annotations

import json
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
from kvpool.cli._options import (
    OUTPUT,
    POOL,
    RESERVED_TOKENS,
    BackendOption,
    ElasticOption,
    JsonOption,
    capacity_option,
)
from kvpool.cli._picture import save_svg
from kvpool.cli._session_bars import SessionBar, SessionBars
from kvpool.cli._sizes import counted, format_size
from kvpool.entry import KVCacheEntry
from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager
from kvpool.pool import BlockUsage, MemoryBlock

__all__ = ["memory_map"]

LAYOUT = KVLayout(layers=2, kv_heads=2, head_dim=128, dtype="float16")
_TOKENS, _TOKENS_AFTER_A_FORK = 400, 60  # medians
_ROWS = 4


def memory_map(
    backend: BackendOption = None,
    sessions: Annotated[int, typer.Option(min=1, max=40, help="Number of conversations.")] = 5,
    forks: Annotated[
        int, typer.Option(min=0, max=40, help="Number of forks of these conversations.")
    ] = 4,
    max_context: Annotated[
        int, typer.Option(min=1, metavar="TOKENS", rich_help_panel=POOL, help=RESERVED_TOKENS)
    ] = 1024,
    capacity: Annotated[int, capacity_option("16MiB")] = 16 << 20,
    elastic: ElasticOption = None,
    seed: Annotated[int, typer.Option(help="Seed of the generated conversations.")] = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE.svg",
            rich_help_panel=OUTPUT,
            help="Also write the drawing to this SVG file.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Draw the memory that generated conversations and their forks reserve, commit and share."""
    if output is not None and output.suffix.lower() != ".svg":
        raise typer.BadParameter(
            f"unsupported picture format {str(output)!r}; use a name that ends in .svg",
            param_hint="--output",
        )
    with KVCacheManager(capacity, backend, LAYOUT, receipts=False, elastic=elastic) as manager:
        conversations = _Conversations(manager, max_context, seed)
        for _ in range(sessions):
            conversations.open()
        for _ in range(forks):
            conversations.branch()
        drawing = conversations.drawing()
        if as_json:
            typer.echo(json.dumps(conversations.document(), indent=2))
        else:
            Console(markup=False, highlight=False, emoji=False).print(drawing)
        if output is not None:
            _save(drawing, output)


def _save(drawing: Group, path: Path) -> None:
    try:
        save_svg(drawing, path, "kvpool map")
    except OSError as error:
        typer.echo(f"kvpool: cannot write {path}: {error.strerror or error}", err=True)
        raise typer.Exit(1) from None


class _Conversations:
    """Generated conversations that begin, fork and continue, with real bytes."""

    def __init__(self, manager: KVCacheManager, max_context: int, seed: int) -> None:
        self._manager = manager
        self._max_context = max_context
        self._random = random.Random(seed)
        self._sessions: list[tuple[str, KVCacheEntry]] = []  # evicted ones too

    def open(self) -> None:
        """Begin a conversation."""
        key = CacheKey("map", len(self._sessions))
        entry = self._manager.create_cache_entry(key, self._max_context)
        self._sessions.append((f"{key.id}", entry))
        self._add_tokens(entry, _TOKENS)

    def branch(self) -> None:
        """Fork a conversation or one of its forks, and add tokens to both."""
        parent = self._random.choice(self._manager.session_keys())
        key = CacheKey("map", len(self._sessions))
        fork = self._manager.fork_cache_entry(parent, key)
        self._sessions.append((f"{key.id} of {parent.id}", fork))
        for session in (key, parent):
            if session in self._manager:  # adding tokens to one may have evicted the other
                self._add_tokens(self._sessions[int(session.id)][1], _TOKENS_AFTER_A_FORK)

    def _add_tokens(self, entry: KVCacheEntry, median: int) -> None:
        wanted = max(round(self._random.lognormvariate(0, 0.6) * median), 1)
        count = min(wanted, self._max_context - entry.token_count)
        if count:
            tokens = np.ones((LAYOUT.layers, LAYOUT.kv_heads, count, LAYOUT.head_dim), np.float16)
            entry.extend(tokens, tokens)

    # -- figures -------------------------------------------------------------------------

    def document(self) -> dict[str, object]:
        """Return what the drawing shows, as JSON has it. Sizes are in bytes."""
        pool, stats, numbers = self._manager.pool, self._manager.get_stats(), self._numbers()
        return {
            "backend": pool.arena_info.backend,
            "layout": str(LAYOUT),
            "elastic": pool.is_elastic,
            "capacity": stats.total_capacity,
            "committed": stats.used_memory,
            "reserved": stats.reserved_memory,
            "committed_by_system": pool.committed_bytes() if pool.is_elastic else None,
            "evictions": stats.evictions,
            "forks": stats.forks,
            "copied_forks": stats.copied_forks,
            "sessions": [
                {
                    "session": self._sessions[numbers[usage.block]][0],
                    "is_fork": usage.is_fork,
                    "is_evicted": not usage.is_live,
                    "tokens": self._sessions[numbers[usage.block]][1].token_count
                    if usage.is_live
                    else None,
                    "reserved": usage.block.size,
                    "committed": usage.committed,
                    "shared": usage.shared,
                }
                for usage in self._usages(numbers)
            ],
        }

    def _numbers(self) -> dict[MemoryBlock, int]:
        """Return the number of each session, by its block."""
        return {entry.block: number for number, (_, entry) in enumerate(self._sessions)}

    def _usages(self, numbers: dict[MemoryBlock, int]) -> list[BlockUsage]:
        """Return what each block costs: a session before its forks, else in address order."""
        return sorted(
            self._manager.pool.usage(),
            key=lambda one: (one.block.offset, one.is_fork, numbers[one.block]),
        )

    # -- drawing -------------------------------------------------------------------------

    def drawing(self) -> Group:
        """Return the bars of the sessions, and the map of the budget."""
        pool, numbers = self._manager.pool, self._numbers()
        usages = self._usages(numbers)
        bars = [self._bar(numbers[usage.block], usage) for usage in usages]
        return Group(
            Text(f"Memory of each session ({pool.arena_info.backend}, layout {LAYOUT})", "bold"),
            SessionBars(bars),
            Text(f"\nUse of the capacity of {format_size(pool.capacity)}", "bold"),
            ArenaMap(charges(usages, numbers, pool.capacity), _ROWS),
            *map(Text, self._notes(usages)),
        )

    def _bar(self, number: int, usage: BlockUsage) -> SessionBar:
        name, entry = self._sessions[number]
        if usage.is_live:
            return SessionBar(name, entry.token_count, usage)
        return SessionBar(f"{name} (evicted)", None, usage)

    def _notes(self, usages: list[BlockUsage]) -> Iterator[str]:
        """Yield the lines below the drawing."""
        pool, stats = self._manager.pool, self._manager.get_stats()
        yield (
            f"{format_size(stats.used_memory)} committed of "
            f"{format_size(stats.reserved_memory)} reserved; "
            f"{counted(stats.evictions, 'session')} evicted."
        )
        if stats.copied_forks:
            yield f"{stats.copied_forks} forks are copies: this arena cannot share pages."
        system = pool.committed_bytes() if pool.is_elastic else None
        if system is not None:
            arena = sum(usage.committed for usage in usages if not usage.is_fork)
            yield (f"Pages of the arena: {arena:,} bytes by kvpool, {system:,} by the system.")
