"""Traces and reports that several tests look at."""

from __future__ import annotations

import pytest

from kvpool.layout import KVLayout
from kvpool.replay import HASH_BLOCK_TOKENS, conversations
from kvpool.sizing import PrefixTrace, SizingReport, measure

LAYOUT = KVLayout(32, 8, 128)


@pytest.fixture(scope="session")
def talks() -> PrefixTrace:
    """Conversations of several turns, all with one system prompt."""
    return PrefixTrace.from_requests(conversations(300), HASH_BLOCK_TOKENS)


@pytest.fixture(scope="session")
def report(talks: PrefixTrace) -> SizingReport:
    """What is measured of `talks`, all of it."""
    return measure(talks, ["lru", "lfu"], layout=LAYOUT, points=6)
