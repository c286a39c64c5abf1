"""A real model in vLLM: one process computes, the next one loads, and generates the same tokens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kvpool.tiers import verify_tier
from kvpool.tiers.disk import DiskTier
from tests.support import needs
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.engines

PROGRAM = Path(__file__).parents[2] / "support" / "vllm_run.py"
MARK = "RESULT OF THE RUN: "
BLOCK = 128  # tokens: vLLM's own on a CPU
CHUNK_BYTES = 2 * 30 * 3 * 64 * 4 * BLOCK

SHELF = "Shelf {} has the books of the letter {}."
PROMPTS = [
    " ".join(SHELF.format(n, chr(65 + (n + first) % 26)) for n in range(count)) + " So shelf 3 has"
    for first, count in ((0, 72), (1, 40), (2, 40))
]
NEXT = {"prompt": "Hello", "max_tokens": 2}
"""A request after those that matter: vLLM stores with the step after a request."""


def requests(*numbers: int) -> list[dict[str, Any]]:
    return [{"prompt": PROMPTS[number]} for number in numbers]


def run(model: Path, tiers: Sequence[dict[str, Any]], steps: list[Any]) -> list[dict[str, Any]]:
    """Run steps in a new process; it leaves neither a file nor an exported pointer."""
    before = set(Path("/dev/shm").glob("vllm_offload_*"))
    task = {
        "model": str(model),
        "options": {"dtype": "float32"},
        "extra": {
            "spec_name": "KVPoolOffloadingSpec",
            "cpu_bytes_to_use": 9 * CHUNK_BYTES,
            "secondary_tiers": [{"type": "kvpool", **tier} for tier in tiers],
        },
        "steps": steps,
    }
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    ended = subprocess.run(
        [sys.executable, str(PROGRAM)],
        input=json.dumps(task),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    told = ended.stdout + ended.stderr
    assert ended.returncode == 0, told
    assert "exported pointer" not in told
    assert "Traceback" not in told, told
    assert set(Path("/dev/shm").glob("vllm_offload_*")) <= before
    (line,) = (line for line in ended.stdout.splitlines() if line.startswith(MARK))
    results: list[dict[str, Any]] = json.loads(line.removeprefix(MARK))
    return results


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
        results = run(model, [{"tiers": [f"{server.url}?budget=0.5"]}], steps)
    order = [0, None, 0, 1, 0, 2, 1, 0]
    for number, result in zip(order, results, strict=True):
        if number is not None:
            assert result["tokens"] == computed[number]["tokens"]
    assert results[2]["cached"] == 7 * BLOCK
