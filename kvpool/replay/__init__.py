"""Replay: the requests of a real trace, served out of one pool with real bytes."""

from __future__ import annotations

from kvpool.replay.driver import Replay
from kvpool.replay.errors import BrokenLineError, TraceError
from kvpool.replay.formats import TraceFormat
from kvpool.replay.reader import TraceReader
from kvpool.replay.report import ReplayReport, Tally, Utilization
from kvpool.replay.request import TraceRequest

__all__ = [
    "BrokenLineError",
    "Replay",
    "ReplayReport",
    "Tally",
    "TraceError",
    "TraceFormat",
    "TraceReader",
    "TraceRequest",
    "Utilization",
]
