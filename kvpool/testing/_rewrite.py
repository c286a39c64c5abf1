"""Have pytest explain a failed assertion of the suites as it explains one of a test module.

Imported before the suites: pytest rewrites a module when it is first imported.
"""

from __future__ import annotations

import pytest

__all__ = ["SUITES"]

SUITES = (
    "kvpool.testing.arena_suite",
    "kvpool.testing.arenas",
    "kvpool.testing.elastic",
    "kvpool.testing.forks",
    "kvpool.testing.policies",
)

pytest.register_assert_rewrite(*SUITES)
