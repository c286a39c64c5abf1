"""Replay: serve the requests of a trace from one pool, with real bytes."""

from __future__ import annotations

from kvpool import _exports
from kvpool.replay._content import Run, TokenTape, request_runs
from kvpool.replay._driver import Replay
from kvpool.replay._errors import BrokenLineError, TraceError
from kvpool.replay._formats import TraceFormat
from kvpool.replay._generated import BLOCK_TOKENS, conversations
from kvpool.replay._reader import TraceReader
from kvpool.replay._report import ReplayReport, Tally, Utilization
from kvpool.replay._request import TraceRequest
from kvpool.replay._sessions import Session

__all__ = [
    "BLOCK_TOKENS",
    "BrokenLineError",
    "Replay",
    "ReplayReport",
    "Run",
    "Session",
    "Tally",
    "TokenTape",
    "TraceError",
    "TraceFormat",
    "TraceReader",
    "TraceRequest",
    "Utilization",
    "conversations",
    "request_runs",
]

_exports.publish(__name__)
