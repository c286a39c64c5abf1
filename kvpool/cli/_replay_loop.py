"""Serving all requests of a trace, with a progress bar, until the end or Ctrl-C."""

from __future__ import annotations

import itertools
from typing import Protocol

from kvpool.cli._interrupts import Interrupts
from kvpool.cli._trace_bar import TraceBar
from kvpool.replay import TraceReader, TraceRequest

__all__ = ["Served", "serve_all"]


class Served(Protocol):
    """A replay, as `kvpool.replay.Replay` or `kvpool.replay.BlockReplay`."""

    def serve(self, request: TraceRequest) -> object:
        """Serve one request."""

    def finish(self) -> None:
        """Check all, after the last request."""


def serve_all(run: Served, requests: TraceReader, limit: int | None) -> bool:
    """Serve all requests; return whether Ctrl-C stopped it before the last one.

    Parameters
    ----------
    run : Served
    requests : TraceReader
    limit : int or None
        Stop after this many requests.
    """
    text = "{served:,} requests, {tokens:,} tokens"
    served = tokens = 0
    try:
        with (
            Interrupts() as interrupts,
            TraceBar(requests, "replay", text, served=0, tokens=0) as bar,
        ):
            for request in itertools.islice(requests, limit):
                with interrupts.step():
                    run.serve(request)
                served += 1
                tokens += request.tokens
                bar.read(served=served, tokens=tokens)
            with interrupts.step():
                run.finish()
    except KeyboardInterrupt:
        return True
    return False
