"""Pool and tiers as the second level (L2) of LMCache's server.

Needs lmcache; the guide is the page "LMCache".
"""

from __future__ import annotations

from kvpool import _exports
from kvpool.integrations._lmcache.adapter import KVPoolL2Adapter

__all__ = ["KVPoolL2Adapter"]

_exports.publish(__name__)
