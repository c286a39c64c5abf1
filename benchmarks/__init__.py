"""Measurements of kvpool beside its peers; never part of the tests.

``python -m benchmarks`` runs all of them, ``python -m benchmarks allocator_speed`` one;
``nox -s bench`` does it with everything that they need.

A module of this package that defines ``run(quick) -> Report`` is a benchmark: no list names
it. The first paragraph of its docstring says what it measures, also on the page of the docs.
What it needs and does not find it says with `benchmarks.harness.UnavailableError`, or with an
import that fails, and is then skipped.
"""

from __future__ import annotations
