"""Pool and tiers as the storage behind SGLang's hierarchical cache (HiCache).

Needs sglang; the guide is the page "SGLang".
"""

from __future__ import annotations

from kvpool import _exports
from kvpool.integrations._sglang.storage import KVPoolStorage

__all__ = ["KVPoolStorage"]

_exports.publish(__name__)
