"""Make pytest explain failed assertions of the suites like those of a test module.

This runs before the suites are imported, because pytest rewrites a module at its first import.
"""

from __future__ import annotations

import pytest

__all__ = ["SUITES"]

SUITES = (
    "kvpool.testing._suites.arena_suite",
    "kvpool.testing._suites.arenas",
    "kvpool.testing._suites.codecs",
    "kvpool.testing._suites.elastic",
    "kvpool.testing._suites.forks",
    "kvpool.testing._suites.policies",
    "kvpool.testing._suites.tiers",
)

pytest.register_assert_rewrite(*SUITES)
