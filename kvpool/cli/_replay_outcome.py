"""The end of a replay: its figures, and its exit code."""

from __future__ import annotations

import typer
from rich.console import Console

from kvpool.cli._interrupts import EXIT_CODE
from kvpool.cli._sizes import format_size
from kvpool.cli._tables import Figure, Figures
from kvpool.replay import ReplayReport

__all__ = ["conclude", "print_report"]


def print_report(
    console: Console, report: ReplayReport, title: str, skipped: int | None = None
) -> None:
    """Print the figures of a replay and of its pool, and notes on them.

    Parameters
    ----------
    console : Console
    report : ReplayReport
    title : str
    skipped : int, optional
        Malformed lines of the trace; None if there is no trace.
    """
    console.print(title, style="italic")
    console.print(Figures((_served(report, skipped), _pool(report))))
    for note in _notes(report):
        console.print(note, style="dim")


def conclude(report: ReplayReport, interrupted: bool) -> None:
    """Exit with an exit code if the replay failed or was interrupted."""
    if report.tally.checksum_failures:
        failures = "; ".join(report.tally.first_failures)
        typer.echo(f"kvpool: bytes read differ from bytes written: {failures}", err=True)
        raise typer.Exit(1)
    if interrupted:
        typer.echo(f"kvpool: interrupted after {report.tally.requests:,} requests", err=True)
        raise typer.Exit(EXIT_CODE)


def _served(report: ReplayReport, skipped: int | None) -> list[Figure]:
    tally, stats = report.tally, report.stats
    named = report.names_sessions
    lines = [("skipped lines", f"{skipped:,}")] if skipped is not None else []
    return [
        ("requests", f"{tally.requests:,}"),
        ("rejected", f"{tally.rejected:,}"),
        *lines,
        ("session hits", f"{stats.hits:,}" if named else "n/a"),
        ("hit rate", f"{stats.hit_rate:.2%}" if named else "n/a"),
        ("prompt tokens", f"{tally.prompt_tokens:,}"),
        ("generated tokens", f"{tally.generated_tokens:,}"),
        ("reused tokens", f"{tally.reused_tokens:,}" if named else "n/a"),
        ("written tokens", f"{tally.written_tokens:,}"),
        ("bytes written", format_size(tally.written_bytes)),
        ("bytes verified", format_size(tally.verified_bytes)),
        ("checksum failures", f"{tally.checksum_failures:,}" if report.written else "n/a"),
    ]


def _pool(report: ReplayReport) -> list[Figure]:
    tally, stats, use = report.tally, report.stats, report.utilization
    reasons = stats.evictions_by_reason.items()
    return [
        ("backend", report.backend),
        ("capacity", format_size(stats.total_capacity)),
        ("peak used", format_size(use.peak_used)),
        ("used / capacity", f"{use.used_of_capacity:.2%}"),
        ("live tokens / used", f"{use.live_of_used:.2%}"),
        ("  / whole blocks", f"{use.live_of_whole_blocks:.2%}"),
        ("  / paged blocks of 16", f"{use.live_of_paged_blocks:.2%}"),
        ("fragmentation", f"{use.fragmentation:.2%}"),
        ("evictions", f"{stats.evictions:,}"),
        *((f"  {reason}", f"{count:,}") for reason, count in reasons if count),
        ("tokens / s", f"{tally.tokens_per_second:,.0f}"),
        ("GB / s", f"{tally.bytes_per_second / 1e9:.2f}"),
        ("seconds", f"{tally.seconds:.1f}"),
    ]


def _notes(report: ReplayReport) -> list[str]:
    tally = report.tally
    notes = []
    if not report.names_sessions:
        notes.append(
            "Hit rate n/a: the trace has no session ids, so each request is its own session."
        )
    elif tally.forkable_tokens:
        notes.append(
            f"{tally.forkable_tokens:,} prompt tokens were written although another session held "
            "them; a fork would have shared them."
        )
    if tally.rejected and report.max_context_length is None:
        notes.append("Rejected requests need more memory than the whole pool has.")
    elif tally.rejected:
        notes.append(
            f"Rejected requests need more memory than the whole pool has, or have more than "
            f"{report.max_context_length:,} tokens."
        )
    if report.committed_by_system is not None:
        notes.append(
            f"Committed at the end: {report.used_in_arena:,} bytes by kvpool's count, "
            f"{report.committed_by_system:,} by the system's."
        )
    if not report.written:
        notes.append("With --count-only no byte was written or checked.")
    if not report.complete:
        notes.append("Incomplete: the remaining sessions were not read back.")
    return notes
