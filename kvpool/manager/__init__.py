"""The manager: one entry per session, in one bounded pool."""

from __future__ import annotations

from kvpool import _exports
from kvpool.manager._manager import KVCacheManager
from kvpool.manager._opening import OpeningSession
from kvpool.manager._reuse import NAMELESS, OpenedSession

__all__ = ["NAMELESS", "KVCacheManager", "OpenedSession", "OpeningSession"]

_exports.publish(__name__)
