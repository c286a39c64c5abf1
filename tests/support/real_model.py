"""The small model, converted once for all runs of the tests in a tree."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvpool.integrations.small_model import small_model_directory as make_directory
from tests.support import needs

__all__ = ["small_model_directory"]


@pytest.fixture(scope="session")
def small_model_directory(pytestconfig: pytest.Config) -> Iterator[Path]:
    """The directory of the small model: in $KVPOOL_CACHE, or else in the cache of pytest."""
    needs.transformers()
    needs.small_model()
    with pytest.MonkeyPatch.context() as patch:
        if not os.environ.get("KVPOOL_CACHE"):
            patch.setenv("KVPOOL_CACHE", str(pytestconfig.cache.mkdir("kvpool")))
        yield make_directory(print)
