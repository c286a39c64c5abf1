"""Keys and values of a real model in tiers: loaded beside computed, and what each codec does.

SmolLM2-135M-Instruct finds a prompt on a disk after a restart, or computes it; the sides take turns
in one process, and torch computes in one thread. Then the keys and values of a text go through each
codec: how much smaller they are, how fast that is, and, for the codecs that round, what the
model makes of them. The times are those of the wall.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path

import torch

from benchmarks.first_token import Asker
from benchmarks.harness import Ratio, Report, Target, UnavailableError, interleave, median
from benchmarks.tiers_codecs import measure_errors, measure_sizes
from kvpool.integrations.small_model import HOW_TO_INSTALL, SMALL_MODEL, small_model_file
from kvpool.integrations.transformers import PooledCache
from kvpool.manager import KVCacheManager

PROMPT, QUICK_PROMPT = 1500, 200
ROUNDS = 5
LOADED, COMPUTED = "tier disk", "computed"
LOADED_OF_COMPUTED = Target(0.1, at_most=True)

NOTES = """\
The model is SmolLM2-135M-Instruct; torch computes in one thread.
A prompt is loaded from the tier `disk` into the pool of a new manager, as after a restart. Its \
last tokens are in no whole chunk of 64 tokens: they are computed on both sides, and the time ends \
with the first token of the answer. The disk is its cache in memory.
Sizes are of keys and values in bfloat16, by chunks of 64 tokens.
The perplexity is that of the second half of a text, in float32, after the keys and values of its \
first half went through the codec. Greedy tokens are what the model then says. "In a row" is how \
many are the same before the first that differs; "each" is at how many places it would choose the \
same token after the same ones."""


class Prompt:
    """A prompt in a tier on a disk, of which each round makes a first token."""

    def __init__(self, asker: Asker, folder: Path) -> None:
        self._asker, self._tier = asker, f"disk:{folder / 'tier'}?capacity=1GiB"
        self.tokens: set[int] = set()
        with self._manager(self._tier) as manager:
            self._ask(manager)

    def _manager(self, *tiers: str) -> KVCacheManager:
        return KVCacheManager(1 << 30, "mmap", receipts=False, tiers=list(tiers) or None)

    def _ask(self, manager: KVCacheManager) -> int:
        """Make the first token of the answer; return how many tokens of the prompt were there."""
        model, prompt = self._asker.model, self._asker.system
        with PooledCache.for_tokens(manager, prompt, model=model) as cache:
            there = int(cache.get_seq_length())
            self.tokens.add(self._asker.first_token(prompt, cache))
        return there

    def load(self) -> float:
        """Load the prompt; return the milliseconds to the first token."""
        with self._manager(self._tier) as manager:
            start = time.perf_counter()
            there = self._ask(manager)
            took = time.perf_counter() - start
        least = (self._asker.system.shape[1] - 1) // 64 * 64
        if there != least:
            raise AssertionError(f"{there} tokens were loaded, not {least}")
        return took * 1e3

    def compute(self) -> float:
        """Compute the prompt; return the milliseconds to the first token."""
        with self._manager() as manager:
            start = time.perf_counter()
            there = self._ask(manager)
            took = time.perf_counter() - start
        if there:
            raise AssertionError(f"{there} tokens were in a new pool")
        return took * 1e3


def run(quick: bool) -> Report:
    """Measure the loads and the codecs."""
    if small_model_file() is None:
        raise UnavailableError(f"{SMALL_MODEL} is not installed: {HOW_TO_INSTALL}")
    report = Report("tiers with a real model")
    report.versions = {name: metadata.version(name) for name in ("torch", "transformers")}
    report.notes += NOTES.splitlines()
    with torch.inference_mode():
        measure_load(report, QUICK_PROMPT if quick else PROMPT, 2 if quick else ROUNDS)
        measure_sizes(report, quick=quick)
        measure_errors(report, quick=quick)
    return report


def measure_load(report: Report, tokens: int, rounds: int) -> None:
    """Load and compute a prompt in turns; add the figures to the report."""
    asker = Asker(tokens)
    with tempfile.TemporaryDirectory(prefix="kvpool-bench-") as folder:
        prompt = Prompt(asker, Path(folder))
        sides: dict[str, Callable[[], float]] = {LOADED: prompt.load, COMPUTED: prompt.compute}
        samples = interleave({name: partial(side) for name, side in sides.items()}, rounds)
    if len(prompt.tokens) != 1:
        raise AssertionError(f"the first tokens differ: {prompt.tokens}")
    what = f"first token after a prompt of {tokens:,} tokens"
    figures = {name: median(what, name, "ms", samples[name]) for name in sides}
    report.measurements += figures.values()
    quotients = [one / two for one, two in zip(samples[LOADED], samples[COMPUTED], strict=True)]
    value = median("", "", "", quotients).value
    ratio = Ratio(
        what, figures[LOADED], figures[COMPUTED], "times as long", value, LOADED_OF_COMPUTED
    )
    report.ratios.append(ratio)
