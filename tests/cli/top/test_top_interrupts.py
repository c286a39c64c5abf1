"""`kvpool top` gives the terminal back, whenever Ctrl-C is pressed."""

from __future__ import annotations

import io
import signal

import pytest
from rich.console import Console

from kvpool.cli._interrupts import Interrupts
from kvpool.cli._scrape import Scrape, Source
from kvpool.cli._top.command import _watch
from kvpool.cli._top.history import History


class Pressed(Console):
    """A terminal in which Ctrl-C is pressed as the other screen is opened, or closed, or both."""

    def __init__(self, moments: set[bool]) -> None:
        super().__init__(file=io.StringIO(), force_terminal=True, width=80, height=24)
        self._moments = moments

    def set_alt_screen(self, enable: bool = True) -> bool:
        changed = super().set_alt_screen(enable)
        if enable in self._moments:
            signal.raise_signal(signal.SIGINT)
        return changed


@pytest.mark.parametrize("moments", [{True}, {True, False}])
def test_ctrl_c_while_the_screen_opens_or_closes(moments: set[bool]) -> None:
    console = Pressed(moments)
    history = History(Scrape("kvpool_pool_capacity_bytes 1\n", 0.0))
    source = Source("http://127.0.0.1:1/metrics")
    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt):
        _watch(console, source, history, "title", 0.1, interrupts)
    assert isinstance(console.file, io.StringIO)
    written = console.file.getvalue()
    assert written.count("\x1b[?1049h") == written.count("\x1b[?1049l") == 1
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")  # the cursor is shown
