"""The numpy backend passes the suite."""

from __future__ import annotations

from kvpool.testing import ArenaConformance


class TestNumpyArena(ArenaConformance):
    backend = "numpy"
