"""The tier ``memory``: the contract, and the options of its URL."""

from __future__ import annotations

from typing import Any

import pytest

from kvpool.errors import InvalidSizeError, InvalidTierError
from kvpool.testing import TierSuite
from kvpool.tiers import Tier, open_tier
from kvpool.tiers.memory import MemoryTier


class TestMemoryTier(TierSuite):
    is_durable = False
    evicts_oldest = True

    def create_tier(self) -> Tier:
        return open_tier("memory:")

    def create_small(self) -> Tier:
        return open_tier("memory:?capacity=4MiB")


def test_the_capacity_is_that_of_the_url() -> None:
    assert open_tier("memory:?capacity=1.5KiB").stats().capacity == 1536
    assert open_tier("memory:").stats().capacity is None


@pytest.mark.parametrize("text", ["", "0", "lots", "-1", "1e3"])
def test_a_capacity_that_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidTierError, match=f"'{text}'"):
        open_tier(f"memory:?capacity={text}")


@pytest.mark.parametrize("capacity", [0, -1, 1.5, "1"])
def test_a_capacity_that_is_not_a_number_is_refused(capacity: Any) -> None:
    with pytest.raises(InvalidSizeError, match="capacity"):
        MemoryTier(capacity)
