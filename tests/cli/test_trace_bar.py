"""Progress on standard error that is not a terminal: lines, for logs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kvpool.cli._trace_bar import TraceBar
from tests.support.sessions import Clock


def bar(clock: Clock, total: int = 1000) -> tuple[TraceBar, Any]:
    reader: Any = SimpleNamespace(bytes_read=0, bytes_total=total)
    return TraceBar(reader, "replay", "{served:,} requests", clock=clock, served=0), reader


def test_a_line_every_ten_seconds(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    progress, reader = bar(clock)
    with progress:
        for second in range(26):
            reader.bytes_read = 10 * second
            progress.read(served=1000 * second)
            clock.now += 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "kvpool: replay: 10%, 10,000 requests",
        "kvpool: replay: 20%, 20,000 requests",
    ]


def test_a_length_that_is_not_known(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    progress, _ = bar(clock, total=0)
    clock.now += 10
    progress.read(served=5)
    assert capsys.readouterr().err == "kvpool: replay: 5 requests\n"


def test_a_line_always_says_how_far_it_is(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    reader: Any = SimpleNamespace(bytes_read=3 << 20, bytes_total=None)
    progress = TraceBar(reader, "read", clock=clock)
    clock.now += 10
    progress.read()
    assert capsys.readouterr().err == "kvpool: read: 3.0 MiB\n"


def test_another_work(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    progress, _ = bar(clock)
    progress.show(1, 4, what="simulate")
    clock.now += 10
    progress.show(2, 4, what="simulate")
    progress.show(3, 4, what="simulate")
    assert capsys.readouterr().err == "kvpool: simulate: 50%\n"


def test_a_work_that_is_short_prints_nothing(
    capsys: pytest.CaptureFixture[str], clock: Clock
) -> None:
    progress, _ = bar(clock)
    with progress:
        clock.now += 9.9
        progress.read(served=1)
    assert capsys.readouterr().err == ""
