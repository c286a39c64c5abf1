"""How fast a model decodes with `PooledCache`, beside the caches of transformers.

Llama models with random weights, whose caches are filled with random keys and values as by a
prompt of that length, decode the same tokens one by one. The caches take turns within one
process; their time is that of the wall, since attention runs in threads. An append by itself is
the work of one thread.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from importlib import metadata
from typing import Any

import torch

from benchmarks.decode_cases import CASES, CONTEXTS, DYNAMIC, PLAIN, POOLED, STATIC, Case
from benchmarks.decode_models import Decoder, fill, make_cache, make_model, step_states
from benchmarks.harness import Measurement, Ratio, Report, Target, interleave, median, seconds

CACHES = (POOLED, DYNAMIC, STATIC)
QUICK_CONTEXTS = (1024,)
APPEND_US = Target(15, at_most=True)
APPENDS = 32  # tokens in a round: with those, each round takes as many pages as another
APPEND_CASE = Case(PLAIN, "bfloat16", "sdpa")
MEMORY_CASE = CASES[0]

NOTES = """\
torch computes with two threads. Models are narrow but for their attention (hidden size 256): \
weights that every token reads in full, as those of an 8B model, take the same time with every \
cache, and bring the ratios nearer to 1.
StaticCache has room for the context and what is decoded in the run, as generate gives it, and \
masks the few positions that are still empty. With room for longer contexts it attends over that \
padding as well, at the price of a context of that length.
With attention sdpa and fewer KV heads than heads, torch repeats keys and values on a CPU wherever \
there is no mask, for DynamicCache and PooledCache alike; the mask of StaticCache avoids that. The \
attention kvpool (register_attention) does without, for all of them.
In bfloat16 the attention of torch takes longer on this processor than a copy of the keys and \
values, so what a cache saves counts for less.
The pool is in the backend numpy, the default. In the backend mmap pages of memory arrive one by \
one, as tokens are written, and their arrival is part of an append."""


def run(quick: bool) -> Report:
    """Measure speed, cost of an append, and memory."""
    report = Report("decoding with the cache of a model")
    report.versions = {name: metadata.version(name) for name in ("torch", "transformers")}
    report.notes += NOTES.splitlines()
    with torch.inference_mode():
        for case in CASES:
            for context in QUICK_CONTEXTS if quick else case.contexts:
                measure_speed(case, context, report, 3 if quick else rounds_of(case, context))
        for context in QUICK_CONTEXTS if quick else CONTEXTS:
            measure_append(context, report, rounds=3 if quick else 31)
    if sys.platform == "linux":
        measure_memory(CONTEXTS[0 if quick else -1], report, runs=1 if quick else 3)
    return report


# -- tokens per second -------------------------------------------------------------------------


def rounds_of(case: Case, context: int) -> int:
    return 11 if not case.has_targets else 31 if context <= 4096 else 15


def measure_speed(case: Case, context: int, report: Report, rounds: int) -> None:
    """Decode from a context on with each cache in turns; add the figures to the report."""
    model = make_model(case)
    in_round = 3 if context <= 4096 else 2
    room = context + 1 + rounds * in_round
    caches = {name: make_cache(name, model, room) for name in CACHES}
    fill(list(caches.values()), case, context)
    decoders = {name: Decoder(model, cache) for name, cache in caches.items()}
    for decoder in decoders.values():
        decoder.decode(1)
    check_logits(case, context, decoders)
    samples = interleave(
        {name: partial(tokens_per_second, one, in_round) for name, one in decoders.items()}, rounds
    )
    report.measurements.append(unlike(case, context, decoders))
    what = case.decode(context)
    speed = {name: median(what, name, "tokens/s", samples[name]) for name in CACHES}
    report.measurements += speed.values()
    for peer in (DYNAMIC, STATIC):
        pairs = zip(samples[POOLED], samples[peer], strict=True)
        value = statistics.median(ours / theirs for ours, theirs in pairs)
        target = case.target(context, peer)
        report.ratios.append(
            Ratio(what, speed[POOLED], speed[peer], "times as fast", value, target)
        )


def tokens_per_second(decoder: Decoder, count: int) -> float:
    start = time.perf_counter()
    decoder.decode(count)
    return count / (time.perf_counter() - start)


def check_logits(case: Case, context: int, decoders: dict[str, Decoder]) -> None:
    """Raise where a cache does not compute what `DynamicCache` does, up to rounding."""
    for name, decoder in decoders.items():
        expected = decoders[DYNAMIC].logits
        if not torch.allclose(decoder.logits, expected, rtol=0.05, atol=0.02):
            raise AssertionError(f"{name} computes other logits at {context} tokens: {case}")


def unlike(case: Case, context: int, decoders: dict[str, Decoder]) -> Measurement:
    """Return how many of the last logits differ from those with `DynamicCache` in any bit."""
    ours, theirs = (decoders[name].logits for name in (POOLED, DYNAMIC))
    different = int((ours != theirs).sum())
    what = f"logits unlike those of DynamicCache at {context:,} tokens: {case}"
    return median(what, POOLED, "logits", [different], Target(0, at_most=True))


# -- one append --------------------------------------------------------------------------------


def measure_append(context: int, report: Report, rounds: int) -> None:
    """Append token by token without a model; add what a layer costs to the report."""
    model = make_model(APPEND_CASE)
    room = context + rounds * APPENDS
    caches = {
        f"{POOLED}, mmap": make_cache(POOLED, model, room, "mmap"),
        f"{POOLED}, numpy": make_cache(POOLED, model, room, "numpy"),
        STATIC: make_cache(STATIC, model, room),
    }
    fill(list(caches.values()), APPEND_CASE, context)
    states = step_states(PLAIN, APPEND_CASE.dtype, 1)
    samples = interleave(
        {name: partial(append_us, cache, states) for name, cache in caches.items()}, rounds
    )
    what = f"append of a token to one layer at {context:,} tokens: {APPEND_CASE.dtype}"
    for name, found in samples.items():
        target = APPEND_US if name.startswith(POOLED) else None
        report.measurements.append(median(what, name, "µs", found, target))


def append_us(cache: Any, states: tuple[Any, Any]) -> float:
    """Append some tokens to all layers; return the microseconds of one layer and token."""
    layers = range(PLAIN.layers)
    start = seconds()
    for _ in range(APPENDS):
        for layer in layers:
            cache.update(*states, layer)
    return (seconds() - start) / (APPENDS * len(layers)) * 1e6


# -- memory ------------------------------------------------------------------------------------


def measure_memory(context: int, report: Report, runs: int) -> None:
    """Fill and decode in a process for each cache; add the most that it held to the report."""
    what = f"peak memory of {context:,} tokens beside model and libraries: {MEMORY_CASE}"
    peaks = {
        name: median(what, name, "MiB", list(peak_mib(name, context, runs))) for name in CACHES
    }
    report.measurements += peaks.values()
    for peer in (DYNAMIC, STATIC):
        ours, theirs = peaks[POOLED], peaks[peer]
        report.ratios.append(
            Ratio(what, ours, theirs, "times the memory", ours.value / theirs.value)
        )


def peak_mib(name: str, context: int, runs: int) -> Iterator[float]:
    command = [sys.executable, "-m", "benchmarks.decode_memory", name, str(context)]
    for _ in range(runs):
        ended = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
        yield json.loads(ended.stdout)["peak_bytes"] / (1 << 20)
