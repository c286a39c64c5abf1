"""Opaque blocks of an engine under keys of its own, in a pool and in tiers."""

from __future__ import annotations

from kvpool.integrations._blocks.jobs import Done, Jobs
from kvpool.integrations._blocks.options import BlockOptions
from kvpool.integrations._blocks.store import BlockStats, BlockStore

__all__ = ["BlockOptions", "BlockStats", "BlockStore", "Done", "Jobs"]
