"""How long a real model takes to its first token, if the pool holds the system prompt or not.

SmolLM2-135M-Instruct answers questions that follow one system prompt. On one side another session
has computed the system prompt, so that only the question is left; on the others the whole
prompt is computed, with a `PooledCache` and with a `DynamicCache`. The sides take turns within
one process, and torch computes in one thread, so that the time is that of the processor. Questions
differ in each round, and every first token is compared.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

import torch
import transformers
from transformers import DynamicCache

from benchmarks.harness import Ratio, Report, Target, UnavailableError, interleave, median, seconds
from kvpool.integrations.small_model import (
    HOW_TO_INSTALL,
    SMALL_MODEL,
    small_model_directory,
    small_model_file,
)
from kvpool.integrations.transformers import PooledCache, cache_argument
from kvpool.manager import KVCacheManager

PROMPT = 1500
QUICK_PROMPT = 150
ROUNDS = 7
REUSED, COMPUTED, DYNAMIC = "PooledCache, reused", "PooledCache, computed", "DynamicCache"
REUSED_OF_COMPUTED = Target(0.1, at_most=True)
RULE = "The shelf with the number {number} has the books of the letter {letter}. "

NOTES = """\
The model is SmolLM2-135M-Instruct in float32; torch computes in one thread.
The time of a first token is that of all that a turn does until it is there: the look-up, the \
session that is opened as a fork of another one, the prefill, and the choice of the token.
In the backend mmap a fork shares the pages of the system prompt. In the backend numpy they are \
copied."""


class Asker:
    """Asks one question after the other, each behind the same system prompt."""

    def __init__(self, tokens: int) -> None:
        torch.set_num_threads(1)
        directory = small_model_directory(print)
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
        self.model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32
        ).eval()
        rules = (RULE.format(number=n, letter=chr(ord("A") + n % 26)) for n in range(tokens))
        system = tokenizer("".join(rules), return_tensors="pt")["input_ids"]
        self.system = system[:, :tokens]
        self._tokenizer = tokenizer

    def prompt(self, number: int) -> Any:
        """Return the system prompt and a question, as tokens."""
        question = f"\nQuestion: what is on shelf {number}?\nAnswer: on shelf {number} are"
        asked = self._tokenizer(question, return_tensors="pt")["input_ids"]
        return torch.cat([self.system, asked], dim=1)

    def first_token(self, prompt: Any, cache: Any) -> int:
        """Return the token that follows a prompt."""
        made = self.model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=1,
            do_sample=False,
            temperature=None,
            top_p=None,
            **{cache_argument(self.model): cache},
        )
        return int(made[0, -1])


class Side:
    """One way to ask; it keeps the tokens that came first."""

    def __init__(self, asker: Asker) -> None:
        self.tokens: list[int] = []
        self.asker = asker

    def ask(self) -> float:
        """Ask the next question; return the milliseconds to the first token."""
        prompt = self.asker.prompt(len(self.tokens))
        start = seconds()
        token = self.answer(prompt)
        took = seconds() - start
        self.tokens.append(token)
        return took * 1e3

    def answer(self, prompt: Any) -> int:
        """Return the first token, from a cache that is empty."""
        return self.asker.first_token(prompt, DynamicCache(config=self.asker.model.config))


class PooledSide(Side):
    """A side with a pool of its own, whose sessions begin with what others computed, or not."""

    def __init__(self, asker: Asker, backend: str, *, is_reused: bool) -> None:
        super().__init__(asker)
        self._manager = KVCacheManager(1 << 30, backend, receipts=False)
        self._is_reused = is_reused
        if is_reused:
            self.answer(asker.system)

    def answer(self, prompt: Any) -> int:
        """Return the first token, from the cache of a session without a name."""
        salt = "" if self._is_reused else f"turn {len(self.tokens)}"  # then no tokens are shared
        model = self.asker.model
        with PooledCache.for_tokens(self._manager, prompt, model=model, salt=salt) as cache:
            return self.asker.first_token(prompt, cache)


def run(quick: bool) -> Report:
    """Measure the time to the first token of every side."""
    if small_model_file() is None:
        raise UnavailableError(f"{SMALL_MODEL} is not installed: {HOW_TO_INSTALL}")
    report = Report("time to the first token")
    report.versions = {name: metadata.version(name) for name in ("torch", "transformers")}
    report.notes += NOTES.splitlines()
    with torch.inference_mode():
        measure(report, QUICK_PROMPT if quick else PROMPT, 2 if quick else ROUNDS)
    return report


def measure(report: Report, tokens: int, rounds: int) -> None:
    """Ask some questions on every side in turns; add the figures to the report."""
    asker = Asker(tokens)
    sides: dict[str, Side] = {
        f"{REUSED}, mmap": PooledSide(asker, "mmap", is_reused=True),
        f"{REUSED}, numpy": PooledSide(asker, "numpy", is_reused=True),
        COMPUTED: PooledSide(asker, "mmap", is_reused=False),
        DYNAMIC: Side(asker),
    }
    samples = interleave({name: side.ask for name, side in sides.items()}, rounds)
    expected = sides[DYNAMIC].tokens
    for name, side in sides.items():
        if side.tokens != expected:
            raise AssertionError(f"{name} has the first tokens {side.tokens}, not {expected}")
    what = f"first token after a shared prompt of {tokens:,} tokens"
    figures = {name: median(what, name, "ms", samples[name]) for name in sides}
    report.measurements += figures.values()
    for name in sides:
        if name.startswith(REUSED):
            ours, theirs = figures[name], figures[COMPUTED]
            value = ours.value / theirs.value
            report.ratios.append(
                Ratio(what, ours, theirs, "times as long", value, REUSED_OF_COMPUTED)
            )
