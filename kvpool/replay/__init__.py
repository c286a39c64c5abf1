"""Replay: serve the requests of a trace from one pool, with real bytes."""

from __future__ import annotations

from kvpool import _exports
from kvpool.replay._block_tiers import BlockLevel
from kvpool.replay._blocks import BlockReplay, BlockReport
from kvpool.replay._content import Span, TokenTape, request_spans
from kvpool.replay._driver import Replay
from kvpool.replay._errors import BrokenLineError, TraceError
from kvpool.replay._export import to_arrow, to_csv, to_rows
from kvpool.replay._formats import TraceFormat
from kvpool.replay._generated import HASH_BLOCK_TOKENS, conversations
from kvpool.replay._reader import TraceReader
from kvpool.replay._report import ReplayReport, Tally, Utilization
from kvpool.replay._request import TraceRequest
from kvpool.replay._sessions import ReplaySession

__all__ = [
    "HASH_BLOCK_TOKENS",
    "BlockLevel",
    "BlockReplay",
    "BlockReport",
    "BrokenLineError",
    "Replay",
    "ReplayReport",
    "ReplaySession",
    "Span",
    "Tally",
    "TokenTape",
    "TraceError",
    "TraceFormat",
    "TraceReader",
    "TraceRequest",
    "Utilization",
    "conversations",
    "request_spans",
    "to_arrow",
    "to_csv",
    "to_rows",
]

_exports.publish(__name__)
