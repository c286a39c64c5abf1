"""Have pytest explain a failed assertion of the suites as it explains one of a test module.

Imported before the suites: pytest rewrites a module when it is first imported.
"""

from __future__ import annotations

import pytest

__all__ = ["SUITES"]

SUITES = (
    "kvpool.testing._suites.arena_suite",
    "kvpool.testing._suites.arenas",
    "kvpool.testing._suites.elastic",
    "kvpool.testing._suites.forks",
    "kvpool.testing._suites.policies",
)

pytest.register_assert_rewrite(*SUITES)
