"""What ``kvpool top`` shows of the metrics of a server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kvpool._escaping import printable
from kvpool.cli._sizes import format_size
from kvpool.cli._top.history import History

__all__ = ["NAMES", "View"]

_CAPACITY = "kvpool_pool_capacity_bytes"
_MEMORY = "kvpool_pool_memory_bytes"
_RESERVED = "kvpool_pool_reserved_bytes"
_FRAGMENTATION = "kvpool_pool_fragmentation_ratio"
_ENTRIES = "kvpool_entries"
_EVICTIONS = "kvpool_evictions_total"
_FORKS = "kvpool_forks"
_COPIED = "kvpool_copied_forks_total"
_ASKED = "kvpool_prefix_asked_tokens_total"
_REUSED = "kvpool_prefix_reused_tokens_total"
_HELD = "kvpool_prefix_held_tokens"
_GENERATED = "kvpool_completion_tokens_total"
_ACTIVE = "kvpool_active_requests"
_REQUESTS = "kvpool_requests_total"
_PREEMPTIONS = "kvpool_preemptions_total"
_FIRST_TOKEN = "kvpool_time_to_first_token_seconds"
_BETWEEN = "kvpool_time_between_tokens_seconds"
_MODEL = "kvpool_model_info"

NAMES = (
    *(_CAPACITY, _MEMORY, _RESERVED, _FRAGMENTATION, _ENTRIES, _EVICTIONS, _FORKS, _COPIED),
    *(_ASKED, _REUSED, _HELD, _GENERATED, _ACTIVE, _REQUESTS, _PREEMPTIONS),
    *(f"{_FIRST_TOKEN}_bucket", f"{_BETWEEN}_bucket", _MODEL),
)
"""The metrics that are shown."""

_WIDE = 100  # columns from which on two sections stand side by side
_TALL = 34  # lines from which on there is an empty one between sections
_TALL_WIDE = 20  # the same, if they stand side by side
_SPARK = "▁▂▃▄▅▆▇█"
_SPARK_ASCII = "_.-=+*#"
_SPARKS = 16


class View:
    """Draws the metrics of a server, as wide as the console, without empty lines on a low screen.

    Parameters
    ----------
    history : History
    title : str
        The address of the server.
    note : str
        On the right of the title.
    trouble : str, optional
        Why the figures are old; shown in red.
    lines : int, optional
        Height of the screen. By default, as many lines as there are can be shown.
    """

    def __init__(
        self,
        history: History,
        title: str,
        note: str = "",
        trouble: str = "",
        lines: int | None = None,
    ) -> None:
        self._history = history
        self._now = history.now
        self._title = title
        self._note = note
        self._trouble = trouble
        self._lines = lines

    def __rich_console__(
        self, _console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Yield the title and the sections."""
        self._ascii = options.ascii_only
        is_wide = options.max_width >= _WIDE
        enough = _TALL_WIDE if is_wide else _TALL
        self._gap = "" if self._lines is not None and self._lines < enough else "\n"
        yield self._heading()
        if self._trouble:
            yield Text(self._trouble, "red")
        pool = Group(self._memory(), self._entries())
        work = Group(self._tokens(), *self._work())
        if is_wide:
            side_by_side = Table.grid(expand=True, padding=(0, 2))
            side_by_side.add_column(ratio=1)
            side_by_side.add_column(ratio=1)
            side_by_side.add_row(pool, work)
            yield side_by_side
        else:
            yield pool
            yield work

    def _heading(self) -> RenderableType:
        line = Table.grid(expand=True, padding=(0, 2, 0, 0))
        line.add_column(ratio=1, no_wrap=True)
        line.add_column(justify="right", no_wrap=True)
        line.add_row(Text.assemble(("kvpool top ", "bold"), self._title), self._note)
        models = ", ".join(printable(name) for name in self._now.by(_MODEL, "id"))
        return Group(line, Text(models, "dim")) if models else line

    # -- the pool --------------------------------------------------------------------------

    def _memory(self) -> RenderableType:
        capacity = self._now.total(_CAPACITY)
        used = self._now.total(_MEMORY, state="used")
        share = used / capacity if capacity else 0.0
        bar = ProgressBar(
            total=capacity or 1, completed=used, complete_style="cyan", finished_style="cyan"
        )
        return Group(
            self._headline("memory"),
            Padding(bar, (0, 0, 0, 2)),
            _figures(
                f"{format_size(used)} of {format_size(capacity)}, {share:.0%}",
                f"{format_size(self._now.total(_RESERVED))} reserved",
                f"{self._now.total(_FRAGMENTATION):.0%} fragmented",
            ),
        )

    def _entries(self) -> RenderableType:
        states = self._now.by(_ENTRIES, "state")
        forks, copied = self._now.total(_FORKS), self._now.total(_COPIED)
        table = self._table("evictions", "per s", "total")
        for reason, total in self._now.by(_EVICTIONS, "reason").items():
            if total:
                rate = self._history.rate(_EVICTIONS, reason=reason)
                table.add_row(f"  {printable(reason)}", _number(rate), _number(total))
        if not table.row_count:
            table.add_row("  not any", "", "")
        return Group(
            self._headline("entries"),
            _figures(*(f"{count:,.0f} {printable(state)}" for state, count in states.items())),
            _figures(f"{forks:,.0f} forks share pages", f"{copied:,.0f} had to be copied"),
            table,
        )

    # -- the work --------------------------------------------------------------------------

    def _tokens(self) -> RenderableType:
        history, now = self._history, self._now
        table = self._table("tokens", "per s", "total", "")
        asked, reused = now.total(_ASKED), now.total(_REUSED)
        rates = {"asked": history.rates(_ASKED), "reused": history.rates(_REUSED)}
        computed = [a - b for a, b in zip(rates["asked"], rates["reused"], strict=True)]
        self._add_tokens(table, "reused", rates["reused"], reused)
        self._add_tokens(table, "computed", computed, asked - reused)
        if _GENERATED in now:
            self._add_tokens(table, "generated", history.rates(_GENERATED), now.total(_GENERATED))
        shares = [b / a if a else 0.0 for a, b in zip(rates["asked"], rates["reused"], strict=True)]
        latest = f"{shares[-1]:.0%}" if shares and rates["asked"][-1] else "-"
        overall = f"{reused / asked:.0%}" if asked else "-"
        table.add_row("  reuse", latest, overall, self._spark(shares, 1.0))
        table.add_row("  held", "", _number(now.total(_HELD)), "")
        return table

    def _add_tokens(self, table: Table, name: str, rates: list[float], total: float) -> None:
        latest = _number(rates[-1]) if rates else "-"
        table.add_row(f"  {name}", latest, _number(total), self._spark(rates))

    def _spark(self, values: list[float], top: float = 0.0) -> str:
        """Return the last values as a line of bars."""
        marks = _SPARK_ASCII if self._ascii else _SPARK
        last = values[-_SPARKS:]
        highest = max([top, *last])
        if not highest:
            return marks[0] * len(last)
        steps = len(marks) - 1
        return "".join(marks[round(steps * max(value, 0) / highest)] for value in last)

    def _work(self) -> Iterator[RenderableType]:
        """Yield what an engine tells; nothing for a pool without one."""
        now = self._now
        if _REQUESTS not in now:
            return
        active = now.by(_ACTIVE, "state") | {"preempted": now.total(_PREEMPTIONS)}
        yield self._headline("requests")
        yield _figures(*_counts(active))
        yield _figures(*_counts(now.by(_REQUESTS, "outcome")))
        table = self._table("latency", "p50", "p95", "p99")
        for text, name in (("to the first token", _FIRST_TOKEN), ("between tokens", _BETWEEN)):
            parts = (self._history.quantile(name, part) for part in (0.5, 0.95, 0.99))
            table.add_row(f"  {text}", *map(_duration, parts))
        yield table

    # -- parts of both ---------------------------------------------------------------------

    def _headline(self, text: str) -> Text:
        return Text(f"{self._gap}{text}", "bold")

    def _table(self, name: str, *columns: str) -> Table:
        """Return a table without lines, under a headline."""
        table = Table(box=None, pad_edge=False, expand=True, header_style="bold")
        table.add_column(f"{self._gap}{name}", ratio=2, no_wrap=True)
        for column in columns:
            if column:
                head = f"{self._gap}{column}"
                table.add_column(head, justify="right", ratio=1, no_wrap=True, header_style="")
            else:
                table.add_column("", min_width=_SPARKS, no_wrap=True)
        return table


def _counts(values: Mapping[str, float]) -> Iterator[str]:
    return (f"{count:,.0f} {printable(name)}" for name, count in values.items())


def _figures(*texts: str) -> Padding:
    return Padding(Text("   ".join(texts)), (0, 0, 0, 2))


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 10 or value == round(value) else f"{value:,.1f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:,.2f} s" if seconds >= 1 else f"{seconds * 1000:,.1f} ms"
