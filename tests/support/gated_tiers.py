"""Tiers whose reads wait at a gate, to see what happens while sessions are loaded."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kvpool.tiers import Tier
from kvpool.tiers.disk import DiskTier
from kvpool.tiers.memory import MemoryTier

__all__ = ["GatedDisk", "GatedMemory", "GatedTier"]

PATIENCE = 60


class GatedTier(Tier):
    """A tier with a gate before its reads, which is open at first. Derive it with another one.

    Attributes
    ----------
    gate : threading.Event
        Set it to let all reads pass.
    arrived : threading.Semaphore
        Is released by each read that comes to the gate.
    error : Exception or None
        Reads raise it behind the gate.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.gate, self.arrived = threading.Event(), threading.Semaphore(0)
        self.gate.set()
        self.error: Exception | None = None

    def pass_gate(self) -> None:
        """Wait until the gate is open; each `read` begins with that."""
        self.arrived.release()
        assert self.gate.wait(PATIENCE)
        if self.error is not None:
            raise self.error

    def shut(self) -> None:
        """Let no read pass from now on."""
        self.gate.clear()
        self.arrived = threading.Semaphore(0)

    def wait(self) -> None:
        """Wait until a read has come to the gate."""
        assert self.arrived.acquire(timeout=PATIENCE)


class GatedMemory(GatedTier, MemoryTier):
    """A gated tier in memory."""

    def __init__(self) -> None:
        super().__init__(1 << 24)

    def read(self, keys: Sequence[bytes], /) -> Any:
        self.pass_gate()
        return MemoryTier.read(self, keys)


class GatedDisk(GatedTier, DiskTier):
    """A gated tier on a disk."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, 1 << 26)

    def read(self, keys: Sequence[bytes], /) -> Any:
        self.pass_gate()
        return DiskTier.read(self, keys)
