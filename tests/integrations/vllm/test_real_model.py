"""A real model in vLLM: one process computes, the next one loads, and generates the same tokens."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from kvpool.tiers import verify_tier
from kvpool.tiers.disk import DiskTier
from tests.support import needs
from tests.support.redis_server import RedisServer
from tests.support.vllm_process import BLOCK, CHUNK_BYTES, NEXT, prompt, run

pytestmark = pytest.mark.engines

PROMPTS = [prompt(0, 72), prompt(1, 40), prompt(2, 40)]


def requests(*numbers: int) -> list[dict[str, Any]]:
    return [{"prompt": PROMPTS[number]} for number in numbers]


@pytest.fixture(scope="module")
def model(small_model_directory: Path) -> Path:
    needs.vllm()
    return small_model_directory


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiers")


@pytest.fixture(scope="module")
def computed(model: Path, folder: Path) -> list[dict[str, Any]]:
    """What a process computed, beside a tier on a disk, and one that is full all the time."""
    tiers = [
        {"tiers": [f"disk:{folder / 'kv'}?capacity=512MiB&budget=10"]},
        {"tiers": [f"disk:{folder / 'full'}?capacity={2 * CHUNK_BYTES}&budget=10"]},
    ]
    return run(model, tiers, [*requests(0, 1, 2), NEXT])[:3]


def whole_blocks(results: list[dict[str, Any]]) -> list[int]:
    return [result["prompt_tokens"] // BLOCK * BLOCK for result in results]


def test_a_process_computes_what_no_other_has(computed: list[dict[str, Any]]) -> None:
    assert [result["cached"] for result in computed] == [0, 0, 0]
    assert whole_blocks(computed) == [7 * BLOCK, 4 * BLOCK, 4 * BLOCK]


def test_the_next_process_loads_but_what_is_damaged(
    model: Path, folder: Path, computed: list[dict[str, Any]]
) -> None:
    with DiskTier(folder / "kv", 512 << 20) as tier:
        names = sorted(tier.keys())
        assert len(names) == 15
        damage(tier, names[0])
        assert verify_tier(tier).wrong == 1
    loaded = run(
        model, [{"tiers": [f"disk:{folder / 'kv'}?budget=10"]}], [*requests(0, 1, 2), NEXT]
    )
    assert [one["tokens"] for one in loaded[:3]] == [one["tokens"] for one in computed]
    cached, whole = [one["cached"] for one in loaded[:3]], whole_blocks(computed)
    assert sorted(map(int.__eq__, cached, whole)) == [False, True, True]
    assert all(some % BLOCK == 0 and some <= most for some, most in zip(cached, whole, strict=True))
    with DiskTier(folder / "kv", 512 << 20) as tier:  # it was written anew
        assert verify_tier(tier).wrong == 0
        assert sorted(tier.keys()) == names


def damage(tier: DiskTier, name: bytes) -> None:
    with tier.read([name]) as (value,):
        assert value is not None
        content = bytearray(value)
    content[len(content) // 2] ^= 1
    tier.remove([name])
    assert tier.write([(name, [content])]) == 1


def test_a_server_that_hangs_and_dies_changes_no_token(
    model: Path, folder: Path, computed: list[dict[str, Any]]
) -> None:
    with RedisServer(folder, "--maxmemory", "256mb") as server:
        tell = [sys.executable, "-c", "import os, sys; os.kill(int(sys.argv[1]), int(sys.argv[2]))"]
        stop, kill = ({"run": [*tell, str(server.pid), number]} for number in ("19", "9"))
        steps = [
            *requests(0),
            NEXT,
            {"sleep": 2},  # until the server has them
            {"reset": True},
            *requests(0),
            stop,
            {"reset": True},
            *requests(1, 0),
            kill,
            {"reset": True},
            *requests(2, 1, 0),
        ]
        results = run(model, [{"tiers": [f"{server.url}?budget=10"]}], steps)
    order = [0, None, 0, 1, 0, 2, 1, 0]
    for number, result in zip(order, results, strict=True):
        if number is not None:
            assert result["tokens"] == computed[number]["tokens"]
    assert results[2]["cached"] == 7 * BLOCK
