"""Fixtures of the tests of tiers."""

from __future__ import annotations

from tests.support.real_model import small_model_directory

__all__ = ["small_model_directory"]
