"""Measurements of kvpool beside its peers; never part of the tests.

``python -m benchmarks`` runs all of them, ``python -m benchmarks.allocator_speed`` one.
"""

from __future__ import annotations
