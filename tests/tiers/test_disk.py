"""The tier ``disk``: the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvpool.testing import TierSuite
from kvpool.tiers import Tier, open_tier


class TestDiskTier(TierSuite):
    evicts_oldest = True

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.path = tmp_path / "kv"

    def create_tier(self) -> Tier:
        return open_tier(f"disk:{self.path}?capacity=64MiB")

    def create_small(self) -> Tier:
        return open_tier(f"disk:{self.path}?capacity=4MiB")

    def reopen(self, tier: Tier) -> Tier:
        tier.close()
        return open_tier(f"disk:{self.path}?capacity=64MiB")
