"""The plugins that `docs/writing-a-backend.md` shows keep to the contracts that it names."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from kvpool.backends import registry
from kvpool.eviction.base import EvictionPolicy
from kvpool.testing import ArenaConformance, PolicyConformance
from tests.support.docs_pages import DOCS, blocks, run_python


@functools.cache
def page_names() -> dict[str, Any]:
    """Return what the Python blocks of the page define."""
    page, names = DOCS / "writing-a-backend.md", dict[str, Any]()
    for block in blocks(page):
        if block.language == "python":
            run_python(page, block, names)
    return names


class TestArenaOfThePage(ArenaConformance):
    backend = "lent"

    @pytest.fixture(autouse=True)
    def _registered(self) -> Iterator[None]:
        hook = page_names()["kvpool_arena_backend"]
        registry.register(self.backend, SimpleNamespace(kvpool_arena_backend=hook))
        yield
        registry.unregister(self.backend)


class TestPolicyOfThePage(PolicyConformance):
    def create_policy(self) -> EvictionPolicy:
        policy: EvictionPolicy = page_names()["BatchFirst"]()
        return policy
