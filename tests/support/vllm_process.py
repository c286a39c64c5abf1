"""Processes that run vLLM with a real model, and what their requests came to."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

__all__ = ["BLOCK", "CHUNK_BYTES", "NEXT", "prompt", "run", "run_with"]

PROGRAM: Final = Path(__file__).with_name("vllm_run.py")
MARK: Final = "RESULT OF THE RUN: "
_PATIENCE: Final = 600  # seconds, only so that a process that stands still has an end
BLOCK: Final = 128
"""Tokens of a block: vLLM's own on a CPU."""
CHUNK_BYTES: Final = 2 * 30 * 3 * 64 * 4 * BLOCK
"""Bytes of a block of SmolLM2-135M in float32."""
NEXT: Final = {"prompt": "Hello", "max_tokens": 2}
"""A request after those that matter: vLLM stores with the step after a request."""


def prompt(first: int, count: int) -> str:
    """Return a text of 13 tokens for each shelf; another first one shares no block of tokens."""
    shelves = (
        f"Shelf {n} has the books of the letter {chr(65 + (n + first) % 26)}." for n in range(count)
    )
    return f"Library {first}. " + " ".join(shelves) + " So shelf 3 has"


def run(
    model: Path,
    tiers: Sequence[dict[str, Any]],
    steps: Sequence[dict[str, Any]],
    dtype: str = "float32",
) -> list[dict[str, Any]]:
    """Run steps in a new process; it leaves neither a file nor an exported pointer.

    Parameters
    ----------
    model : Path
        The directory of the model.
    tiers : sequence of dict
        The options of each tier.
    steps : sequence of dict
        As `vllm_run` takes them.
    dtype : str, default "float32"
        In which the tokens do not depend on how the prompt is split.
    """
    connector = {
        "kv_connector": "OffloadingConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {
            "spec_name": "KVPoolOffloadingSpec",
            "cpu_bytes_to_use": 9 * CHUNK_BYTES,
            "secondary_tiers": [{"type": "kvpool", **tier} for tier in tiers],
        },
    }
    before = set(Path("/dev/shm").glob("vllm_offload_*"))
    results = run_with(model, connector, steps, dtype=dtype)
    assert set(Path("/dev/shm").glob("vllm_offload_*")) <= before
    return results


def run_with(
    model: Path, connector: dict[str, Any], steps: Sequence[dict[str, Any]], **options: Any
) -> list[dict[str, Any]]:
    """Run steps in a new process with a connector; it tells of no error and no exported pointer.

    Parameters
    ----------
    model : Path
        The directory of the model.
    connector : dict
        Its configuration.
    steps : sequence of dict
        As `vllm_run` takes them.
    **options : object
        Of the engine.
    """
    task = {"model": str(model), "options": options, "connector": connector, "steps": list(steps)}
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "PYTHONFAULTHANDLER": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    # A group of their own, because vLLM starts processes that would outlive it.
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(json.dumps(task), _PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGABRT)  # has each process print where it stands
        output, errors = process.communicate(timeout=_PATIENCE)
        errors += f"\nvLLM was not done after {_PATIENCE} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    told = output + errors
    assert process.returncode == 0, told
    assert "exported pointer" not in told
    assert "Traceback" not in told, told
    (line,) = (line for line in output.splitlines() if line.startswith(MARK))
    results: list[dict[str, Any]] = json.loads(line.removeprefix(MARK))
    return results
