"""``kvpool top``: watch the pool and the requests of a server, in the terminal."""

from __future__ import annotations

from kvpool.cli._top.command import top

__all__ = ["top"]
