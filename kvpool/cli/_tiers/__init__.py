"""``kvpool tiers``, ``sessions``, ``fsck`` and ``gc``: what an operator of tiers needs."""

from __future__ import annotations

# Imported under other names, because the modules of this package have the same ones.
from kvpool.cli._tiers.fsck import fsck as fsck_command
from kvpool.cli._tiers.gc import gc as gc_command
from kvpool.cli._tiers.sessions import sessions as sessions_command
from kvpool.cli._tiers.tiers import tiers as tiers_command

__all__ = ["fsck", "gc", "sessions", "tiers"]

fsck, gc, sessions, tiers = fsck_command, gc_command, sessions_command, tiers_command
