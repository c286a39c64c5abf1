"""The tables of columns of `docs/reference/replay.md` are those of the code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from kvpool.layout import KVLayout
from kvpool.replay import BlockReplay, Replay, conversations, to_arrow, to_rows
from tests.support import needs
from tests.support.docs_pages import DOCS

_PAGE = (DOCS / "reference/replay.md").read_text(encoding="utf-8")
_ROW = re.compile(r"^\| `([\w.]+)` \| (\w+) \| .+ \|$", re.MULTILINE)
REPLAY, BLOCKS = (dict(_ROW.findall(part)) for part in _PAGE.split("\nOf ")[1:])
TYPES = {"string": str, "bool": bool, "int64": int, "double": float}


def reports(full: bool) -> Iterator[tuple[Any, dict[str, str]]]:
    """Yield a report of each kind, once with figures that need not have a value, once without."""
    limits: dict[str, Any] = {"ttl": 60, "max_context_length": 9} if full else {}
    with Replay(KVLayout(1, 1, 8), "1MiB", "numpy", **limits) as run:
        yield run.report(), REPLAY
    with BlockReplay(9 if full else None, tier_blocks=9 if full else None) as blocks:
        for request in conversations(3):
            blocks.serve(request)
        yield blocks.report(), BLOCKS


@pytest.mark.parametrize("full", [False, True])
def test_the_page_has_each_column_in_order(full: bool) -> None:
    for report, columns in reports(full):
        assert list(to_rows([report])[0]) == list(columns)


def test_the_page_has_the_type_of_each_column() -> None:
    for report, columns in reports(full=True):
        for name, value in to_rows([report])[0].items():
            if value is not None and name != "ttl_seconds":
                assert type(value) is TYPES[columns[name]], name


@pytest.mark.parametrize("full", [False, True])
def test_a_column_of_arrow_has_that_type_also_without_a_value(full: bool) -> None:
    needs.pyarrow()
    for report, columns in reports(full):
        assert {one.name: str(one.type) for one in to_arrow([report]).schema} == columns
