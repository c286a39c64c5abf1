"""A real model in vLLM behind LMCache's server: what one process computed, the next one loads.

The first level of the server has room for one prompt and is emptied after each one, and the server
is started again between the two processes: so all that is loaded comes from its second level.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from kvpool.tiers import verify_tier
from kvpool.tiers.disk import DiskTier
from tests.integrations.conftest import small_model_directory
from tests.support.lmcache_server import LMCacheServer
from tests.support.vllm_process import BLOCK, CHUNK_BYTES, NEXT, prompt, run_with

__all__ = ["small_model_directory"]

pytestmark = pytest.mark.engines

PROMPTS = [prompt(1, 40), prompt(2, 40)]
WHOLE = 4  # objects of each prompt
L1_BYTES = WHOLE * CHUNK_BYTES + (1 << 20)
CAPACITY = 256 << 20
# LMCache's own words, at the level DEBUG.
LOADED = r"Prefetch request \d+ completed: \d+ hit cells \(\d+ from L1, (\d+) from L2\)"


@pytest.fixture(scope="module")
def model(parts: Any, small_model_directory: Path) -> Path:
    assert parts  # lmcache is here
    return small_model_directory


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lmcache")


def run_behind_server(folder: Path, model: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """Run the prompts in a new process behind a new server.

    Parameters
    ----------
    folder, model : Path
        Where the tier is, and the model.

    Returns
    -------
    tuple of list of dict and list of int
        What each prompt came to, and how many objects the server loaded for it from L2.
    """
    params = {"tiers": [f"disk:{folder / 'kv'}?capacity={CAPACITY}&budget=10"], "load_budget": 60}
    with LMCacheServer(folder, params, L1_BYTES) as server:
        server.wait_for("cache server is running")
        steps = [step for text in PROMPTS for step in ({"prompt": text}, NEXT, server.emptied)]
        results = run_with(model, server.connector, steps, dtype="float32")
        server.stop()
        return results[::2], [int(count) for count in re.findall(LOADED, server.told)]


@pytest.fixture(scope="module")
def computed(model: Path, folder: Path) -> list[dict[str, Any]]:
    """What the first process computed, beside a tier on a disk."""
    results, loaded = run_behind_server(folder, model)
    assert loaded == [0, 0]
    return results


def test_a_process_computes_what_no_other_has(computed: list[dict[str, Any]], folder: Path) -> None:
    assert [one["cached"] for one in computed] == [0, 0]
    assert [one["prompt_tokens"] // BLOCK for one in computed] == [WHOLE, WHOLE]
    with DiskTier(folder / "kv", CAPACITY) as tier:
        assert len(list(tier.keys())) == 2 * WHOLE
        assert verify_tier(tier).wrong == 0


def test_the_next_process_loads_but_what_is_damaged(
    model: Path, folder: Path, computed: list[dict[str, Any]]
) -> None:
    with DiskTier(folder / "kv", CAPACITY) as tier:
        names = sorted(tier.keys())
        damage(tier, names[0])
        assert verify_tier(tier).wrong == 1
    results, loaded = run_behind_server(folder, model)
    assert [one["tokens"] for one in results] == [one["tokens"] for one in computed]
    assert [one["cached"] for one in results] == [count * BLOCK for count in loaded]
    assert max(loaded) == WHOLE
    assert min(loaded) < WHOLE
    with DiskTier(folder / "kv", CAPACITY) as tier:  # it was written anew
        assert verify_tier(tier).wrong == 0
        assert sorted(tier.keys()) == names


def damage(tier: DiskTier, name: bytes) -> None:
    with tier.read([name]) as (value,):
        assert value is not None
        content = bytearray(value)
    content[len(content) // 2] ^= 1
    tier.remove([name])
    assert tier.write([(name, [content])]) == 1
