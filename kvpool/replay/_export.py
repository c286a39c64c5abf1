"""Figures of replays as tables: CSV, and Arrow."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kvpool import _optional_imports
from kvpool.replay._blocks import BlockReport
from kvpool.replay._report import ReplayReport

__all__ = ["to_arrow", "to_csv", "to_rows"]

_ARROW_TYPES = {
    "string": ("backend", "policy", "layout"),
    "bool": ("elastic", "bytes_are_written", "complete"),
    "double": (
        "ttl_seconds",
        "hit_rate",
        "hit_ratio",
        "utilization.live_of_used",
        "utilization.live_of_whole_blocks",
        "utilization.live_of_paged_blocks",
        "utilization.used_of_capacity",
        "utilization.fragmentation",
        "utilization.fragmentation_at_end",
        "seconds",
        "tokens_per_second",
        "bytes_per_second",
    ),
}
"""The columns that are not whole numbers."""


def to_rows(reports: Iterable[ReplayReport | BlockReport]) -> list[dict[str, Any]]:
    """Return a row for each report, for tables and data frames.

    Parameters
    ----------
    reports : iterable of ReplayReport or BlockReport

    Returns
    -------
    list of dict
        All rows have the same columns, in the order in which the reports have them. A figure in a
        group has the names of both, such as ``tokens.written``; lists are left out.

    Examples
    --------
    >>> from kvpool import KVLayout
    >>> from kvpool.replay import HASH_BLOCK_TOKENS, Replay, conversations
    >>> with Replay(KVLayout(1, 1, 8), 1 << 20, hash_block_tokens=HASH_BLOCK_TOKENS) as run:
    ...     for request in conversations(5):
    ...         _ = run.serve(request)
    ...     report = run.report()
    >>> to_rows([report])[0]["requests"]
    5
    """
    rows = [dict(_flat(report.as_dict())) for report in reports]
    columns = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in columns} for row in rows]


def to_csv(reports: Iterable[ReplayReport | BlockReport]) -> str:
    """Return the rows of `to_rows` as CSV, with a line of names; a figure without a value is empty.

    Parameters
    ----------
    reports : iterable of ReplayReport or BlockReport
    """
    rows = to_rows(reports)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    if rows:
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def to_arrow(reports: Iterable[ReplayReport | BlockReport]) -> Any:
    """Return the rows of `to_rows` as a ``pyarrow.Table``. Needs ``kvpool[arrow]``.

    Parameters
    ----------
    reports : iterable of ReplayReport or BlockReport

    Returns
    -------
    pyarrow.Table
        A column has the same type in every table, also if its figures have no value, so
        that tables and files of several runs can be joined.

    Raises
    ------
    MissingExtraError
        The package pyarrow is not installed.
    """
    library = _optional_imports.load("pyarrow", "arrow", "a table of Arrow")
    rows = to_rows(reports)
    types = {name: kind for kind, names in _ARROW_TYPES.items() for name in names}
    schema = [(name, types.get(name, "int64")) for name in (rows[0] if rows else ())]
    return library.Table.from_pylist(rows, library.schema(schema))


def _flat(figures: Mapping[str, Any], group: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{group}{name}.")
        elif not isinstance(value, list):
            yield f"{group}{name}", value
