"""Conformance suites: the contracts of kvpool as tests, for authors of plugins.

Subclass a suite in a test module of the plugin, and pytest runs its tests::

    from kvpool.testing import ArenaConformance

    class TestMyBackend(ArenaConformance):
        backend = "mine"

This package needs pytest; nothing else in kvpool imports it.
"""

from __future__ import annotations

from kvpool import _exports
from kvpool.testing._process import Holdings, pages_present
from kvpool.testing._suites import SUITES
from kvpool.testing._suites.arenas import ArenaConformance
from kvpool.testing._suites.codecs import CodecSuite
from kvpool.testing._suites.policies import PolicyConformance
from kvpool.testing._suites.tiers import TierSuite

__all__ = [
    "SUITES",
    "ArenaConformance",
    "CodecSuite",
    "Holdings",
    "PolicyConformance",
    "TierSuite",
    "pages_present",
]

_exports.publish(__name__)
