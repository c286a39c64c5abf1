"""How fast many sessions decode in one step without padding, beside the ways of transformers.

Sessions of mixed lengths decode greedily: in a `PooledBatch`; in a `DynamicCache` of one batch with
padding; by a call for each session; and by `generate_batch`, the continuous batching of
transformers with its paged cache. The sides decode the same tokens, and take turns within one
process; their time is that of the wall, since torch computes in threads.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from benchmarks.harness import Ratio, Report, Target, UnavailableError, interleave, median
from benchmarks.ragged_load import CASES, QUICK, Case, Load, likeliest
from kvpool.integrations.small_model import HOW_TO_INSTALL, SMALL_MODEL, small_model_file
from kvpool.integrations.transformers import PooledBatch, cache_argument

SESSIONS = (1, 2, 4, 8, 16, 32)
TARGETED = 8  # sessions
STEPS = 4  # of a round
ROUNDS = 7
PAGED_ROUNDS = 3
PAGED_STEPS = 16  # that are compared, once all sessions decode
PAGED_CHUNK = 1024  # tokens of a call

RAGGED = "PooledBatch"
PADDED = "DynamicCache, padded"
SINGLE = "one call per session"
PAGED = "generate_batch"
OF_PADDED = {"float32": Target(1.4, at_most=False), "bfloat16": Target(1.25, at_most=False)}
OF_SINGLE = Target(3, at_most=False)
OF_PAGED = Target(2, at_most=False)

NOTES = """\
torch computes with as many threads as it takes by itself.
The lengths of the sessions go in even steps from the shortest to the longest; a single session \
has their mean.
All sides attend by the function kvpool (register_attention), but for generate_batch, which has a \
paged attention of its own by sdpa.
The speed of generate_batch is that from the first token of the last session to the last token of \
the first one that ends, by the times that it notes: the prompts are read before.
In bfloat16 two tokens are now and then equally likely, and sides may go on with different ones."""


class Sides:
    """The ways to decode a load; each call decodes some steps and keeps the tokens."""

    def __init__(self, load: Load, steps: int) -> None:
        self.tokens: dict[str, list[list[int]]] = {}
        self._load = load
        self._steps = steps
        self._batch = PooledBatch(load.caches)
        self._padded, self._mask = load.padded()
        self._argument = cache_argument(load.model)

    def all(self) -> dict[str, Callable[[], float]]:
        """Return the sides by name; a call returns tokens per second."""
        ways = {RAGGED: self.ragged, PADDED: self.padded, SINGLE: self.single}
        return {name: partial(self._timed, name, way) for name, way in ways.items()}

    def _timed(self, name: str, way: Callable[[int], list[list[int]]]) -> float:
        start = time.perf_counter()
        self.tokens[name] = way(self._steps)
        took = time.perf_counter() - start
        self._load.reset()
        return self._steps * len(self._load.caches) / took

    def ragged(self, steps: int) -> list[list[int]]:
        """Decode in one batch without padding."""
        tokens, said = self._load.first, []
        for _ in range(steps):
            step = self._batch.step(self._load.model, [[token] for token in tokens])
            tokens = likeliest(step.logits)
            said.append(tokens)
        return said

    def padded(self, steps: int) -> list[list[int]]:
        """Decode in one batch with padding; drop the tokens afterwards."""
        tokens, said, mask = self._load.first, [], self._mask
        positions = torch.tensor(self._load.lengths)[:, None]
        for number in range(steps):
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            logits = self._load.model(
                torch.tensor(tokens)[:, None],
                attention_mask=mask,
                position_ids=positions + number,
                **{self._argument: self._padded},
            ).logits
            tokens = likeliest(logits[:, -1])
            said.append(tokens)
        self._padded.crop(-steps)
        return said

    def single(self, steps: int) -> list[list[int]]:
        """Decode in one call for each session."""
        tokens, said = self._load.first, []
        for _ in range(steps):
            logits = [
                self._load.model(torch.tensor([[token]]), **{self._argument: cache}).logits[0, -1]
                for token, cache in zip(tokens, self._load.caches, strict=True)
            ]
            tokens = likeliest(logits)
            said.append(tokens)
        return said


def run(quick: bool) -> Report:
    """Measure the speed of every side."""
    if not quick and small_model_file() is None:
        raise UnavailableError(f"{SMALL_MODEL} is not installed: {HOW_TO_INSTALL}")
    report = Report("many sessions in one step")
    report.versions = {name: metadata.version(name) for name in ("torch", "transformers")}
    report.notes += NOTES.splitlines()
    with torch.no_grad():
        for case in QUICK if quick else CASES:
            for sessions in (2, 3) if quick else SESSIONS:
                measure(report, case, sessions, 2 if quick else ROUNDS)
            measure_paged(report, case, 2 if quick else TARGETED, 1 if quick else PAGED_ROUNDS)
    return report


def what_of(case: Case, sessions: int) -> str:
    """Return what the speed of some sessions is called."""
    sizes = f"{case.shortest:,} to {case.longest:,} tokens"
    return f"decode of {sessions} sessions of {sizes}: {case}"


def measure(report: Report, case: Case, sessions: int, rounds: int) -> None:
    """Decode some sessions on each side in turns; add the figures to the report."""
    load = Load(case, sessions)
    sides = Sides(load, STEPS)
    samples = interleave(sides.all(), rounds)
    check_tokens(case, sides.tokens)
    what = what_of(case, sessions)
    speeds = {name: median(what, name, "tokens/s", found) for name, found in samples.items()}
    report.measurements += speeds.values()
    targets = {PADDED: OF_PADDED[case.dtype], SINGLE: OF_SINGLE} if sessions == TARGETED else {}
    for peer in (PADDED, SINGLE):
        add_ratio(
            report,
            what,
            (speeds[RAGGED], speeds[peer]),
            (samples[RAGGED], samples[peer]),
            targets.get(peer),
        )
    del sides
    load.close()


def add_ratio(
    report: Report,
    what: str,
    figures: tuple[Any, Any],
    samples: tuple[list[float], list[float]],
    target: Target | None,
) -> None:
    """Add how many times as fast one side is: the median of the rounds."""
    value = statistics.median(ours / theirs for ours, theirs in zip(*samples, strict=True))
    report.ratios.append(Ratio(what, *figures, "times as fast", value, target))


def check_tokens(case: Case, tokens: dict[str, list[list[int]]]) -> None:
    """Raise where a side decodes other tokens; in bfloat16 rounding may choose."""
    for name, said in tokens.items():
        if case.dtype == "float32" and said != tokens[RAGGED]:
            raise AssertionError(f"{name} decodes {said}, {RAGGED} {tokens[RAGGED]}: {case}")


# -- the continuous batching of transformers ---------------------------------------------------


def measure_paged(report: Report, case: Case, sessions: int, rounds: int) -> None:
    """Decode some sessions, in turns with `generate_batch`; add the figures to the report."""
    load = Load(case, sessions)
    sides = Sides(load, PAGED_STEPS)
    tokens: list[list[int]] = []

    def paged() -> float:
        speed, tokens[:] = generate_batch(load)
        return speed

    samples = interleave({RAGGED: sides.all()[RAGGED], PAGED: paged}, rounds)
    if case.dtype == "float32" and tokens != sides.tokens[RAGGED]:
        raise AssertionError(f"{PAGED} decodes {tokens}, not {sides.tokens[RAGGED]}: {case}")
    what = f"{what_of(case, sessions)}, beside {PAGED}"
    ours, theirs = (median(what, name, "tokens/s", samples[name]) for name in (RAGGED, PAGED))
    report.measurements += [ours, theirs]
    target = OF_PAGED if sessions == TARGETED else None
    add_ratio(report, what, (ours, theirs), (samples[RAGGED], samples[PAGED]), target)
    del sides
    load.close()


def generate_batch(load: Load) -> tuple[float, list[list[int]]]:
    """Return the tokens per second while all sessions decode, and the first tokens of each."""
    prompts = [load.text[: length + 1] for length in load.lengths]
    calls = -(-sum(map(len, prompts)) // PAGED_CHUNK)  # some sessions decode while others are read
    new = calls + 2 * PAGED_STEPS
    model = load.model
    model.set_attn_implementation("sdpa")
    try:
        done = model.generate_batch(
            prompts,
            generation_config=GenerationConfig(
                max_new_tokens=new, do_sample=False, eos_token_id=-1, pad_token_id=0
            ),
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=256,
                num_blocks=2 * sum(-(-(len(prompt) + new) // 256) for prompt in prompts),
                max_batch_tokens=PAGED_CHUNK,
                allow_block_sharing=False,
                use_async_batching=False,
            ),
            record_timestamps=True,
        )
    finally:
        model.set_attn_implementation("kvpool")
    outputs = [done[name] for name in sorted(done, key=lambda name: int(name.split("_")[-1]))]
    begin = max(output.timestamps[0] for output in outputs)
    end = min(output.timestamps[-1] for output in outputs)
    decoded = sum(begin < at <= end for output in outputs for at in output.timestamps)
    said = [output.generated_tokens[:PAGED_STEPS] for output in outputs]
    return decoded / (end - begin), [list(step) for step in zip(*said, strict=True)]
