"""The tables of ``/sessions`` and ``/stats``."""

from __future__ import annotations

from collections.abc import Mapping

from rich import box
from rich.table import Table
from rich.text import Text

from kvpool.cli._ages import age_text
from kvpool.cli._chat.book import SessionBook
from kvpool.cli._chat.session import ChatSession
from kvpool.cli._sizes import format_size
from kvpool.pool import BlockUsage, MemoryBlock
from kvpool.stats import PrefixStats

__all__ = ["sessions_table", "stats_table"]


def sessions_table(book: SessionBook, now: float) -> Table:
    """Return a table of the sessions, the most recently used first.

    Parameters
    ----------
    book : SessionBook
    now : float
        Seconds of the book's clock.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("  session")  # the only column that may shrink; its texts are cut off
    for name in ("tokens", "in pool", "committed", "shared", "last used"):
        table.add_column(name, justify="right", no_wrap=True)
    usage = {one.block: one for one in book.manager.pool.usage()}
    for session in sorted(book, key=lambda one: one.used_at, reverse=True):
        is_current = session is book.current
        table.add_row(
            Text(f"{'*' if is_current else ' '} {session.name}", no_wrap=True, overflow="ellipsis"),
            f"{len(session.tokens):,}",
            *_held(session, usage),
            age_text(now - session.used_at),
            style="bold" if is_current else "" if session.entry else "dim",
        )
    return table


def _held(session: ChatSession, usage: Mapping[MemoryBlock, BlockUsage]) -> tuple[str, str, str]:
    """Return three cells: tokens in the pool, committed bytes and shared bytes."""
    if session.entry is None:
        return ("evicted" if session.tokens else "-"), "-", "-"
    cost = usage.get(session.entry.block)
    shared = format_size(cost.shared) if cost is not None and cost.shared else "-"
    return f"{session.held:,}", format_size(session.entry.committed_bytes), shared


def stats_table(book: SessionBook) -> Table:
    """Return a table of the statistics of the pool."""
    stats = book.manager.get_stats()
    memory = book.manager.pool.stats()
    layout = book.model.layout
    reasons = [f"{count:,} {name}" for name, count in stats.evictions_by_reason.items() if count]
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(style="bold")
    loaded = book.loaded_tokens
    in_pool = sum(session.key in book.manager for session in book)
    for row in (
        ("model", f"{book.model.name}, cache {layout}"),
        ("bytes per token", format_size(layout.bytes_per_token)),
        ("backend", book.manager.pool.arena_info.backend),
        ("capacity", format_size(stats.total_capacity)),
        ("used", f"{format_size(stats.used_memory)} ({stats.utilization:.1%})"),
        ("largest free", format_size(memory.largest_free)),
        ("fragmentation", f"{stats.fragmentation:.1%}"),
        ("forks", f"{stats.forks:,} sharing pages, {stats.copied_forks:,} copies"),
        ("sessions", f"{in_pool:,} in the pool, {len(book.names()):,} in total"),
        ("tokens reused", _reused(stats.prefix)),
        *([] if loaded is None else [("tokens loaded", f"{loaded:,} from tiers")]),
        ("evictions", ", ".join(reasons) or "none"),
    ):
        table.add_row(*row)
    return table


def _reused(prefix: PrefixStats) -> str:
    """Return how many tokens of all prompts were in the pool, in words."""
    return f"{prefix.tokens_reused:,} of {prefix.tokens_asked:,} ({prefix.reuse_ratio:.1%})"
