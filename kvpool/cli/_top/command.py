"""``kvpool top``: watch the pool and the requests of a server, in the terminal."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from kvpool.cli._interrupts import EXIT_CODE, Interrupts
from kvpool.cli._options import WEEK, a_number, with_default
from kvpool.cli._scrape import Scrape, ScrapeError, Source
from kvpool.cli._server_options import ApiKeyFileOption, first_key, server_address
from kvpool.cli._top.history import History
from kvpool.cli._top.view import View

__all__ = ["top"]

_DEFAULT = "http://127.0.0.1:8000"


def top(
    url: Annotated[
        str,
        typer.Argument(
            parser=server_address,
            metavar="URL",
            help=with_default("Address of the server, or of its metrics.", _DEFAULT),
            show_default=False,
        ),
    ] = _DEFAULT,
    interval: Annotated[
        float,
        typer.Option(
            min=0.1,
            max=WEEK,
            callback=a_number,
            metavar="SECONDS",
            help="Time between two readings.",
        ),
    ] = 1.0,
    once: Annotated[
        bool, typer.Option("--once", help="Print one table and exit, as without a terminal.")
    ] = False,
    api_key_file: ApiKeyFileOption = None,
) -> None:
    """Watch the pool of a server: memory, evictions, reused tokens, requests and latencies.

    It reads the metrics that `kvpool serve`, or any program with a
    `kvpool.integrations.metrics.PoolCollector`, shows under /metrics. Ctrl-C ends it.
    Latencies are of the last minute, or of all time if nothing happened in it.
    """
    source = Source(url, first_key(api_key_file), timeout=max(interval, 5.0))
    console = Console(markup=False, highlight=False, emoji=False)
    history = History(_read(source))
    title = url.removesuffix("/metrics")
    if once or not console.is_terminal or console.is_dumb_terminal:
        console.print(View(history, title))
        return
    try:
        with Interrupts() as interrupts:
            _watch(console, source, history, title, interval, interrupts)
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_CODE) from None


def _read(source: Source) -> Scrape:
    return Scrape(source.read(), time.monotonic())


def _watch(
    console: Console,
    source: Source,
    history: History,
    title: str,
    interval: float,
    interrupts: Interrupts,
) -> None:
    """Draw until Ctrl-C; while the server does not answer, the last figures stay."""
    trouble = ""
    live = Live(console=console, screen=True, auto_refresh=False)
    try:
        with interrupts.step():  # else the terminal may keep the other screen, without a cursor
            live.start()
        while True:
            clock = datetime.now().astimezone().strftime("%H:%M:%S")
            view = View(history, title, clock, trouble, console.height)
            live.update(view, refresh=True)
            time.sleep(interval)
            try:
                history.add(_read(source))
                trouble = ""
            except ScrapeError as error:
                trouble = f"{error}; last read {time.monotonic() - history.now.seconds:.0f} s ago"
    finally:
        with interrupts.step():
            live.stop()
