"""How long llama.cpp takes to its first token after a prefix that conversations share, and memory.

SmolLM2-135M-Instruct answers questions that follow one prefix of 1,000 tokens, after 10, 100 and
1,000 conversations have begun with it: with a `PooledLlama`, with the `LlamaRAMCache` of
llama-cpp-python, and without a cache. The two that keep anything have the same limit. The sides
take turns within one process, llama.cpp computes in one thread, and every token is compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib import metadata
from typing import Any, Final

import llama_cpp
import numpy as np
from llama_cpp.llama import LlamaState

from benchmarks.harness import Ratio, Report, UnavailableError, interleave, median, seconds
from kvpool.integrations.llama_cpp import PooledLlama
from kvpool.integrations.small_model import HOW_TO_INSTALL, SMALL_MODEL, small_model_file
from kvpool.manager import KVCacheManager

PREFIX, QUICK_PREFIX = 1000, 130
CONVERSATIONS, QUICK_CONVERSATIONS = (10, 100, 1000), (2, 4)
ROUNDS = 5
LIMIT = 512 << 20
POOLED, RAM, NONE = "PooledLlama", "LlamaRAMCache", "no cache"
RULE = "The shelf with the number {number} has the books of the letter {letter}. "
OPTIONS: Final[dict[str, Any]] = {
    "n_ctx": 1536,
    "n_threads": 1,
    "n_threads_batch": 1,
    "verbose": False,
}

NOTES = """\
The model is SmolLM2-135M-Instruct in Q4_1; keys and values are in float16, and llama.cpp computes \
in one thread.
The time of a first token is that of all that a call of create_completion does: the look-up, what \
is copied to the context, the prefill, the token, and keeping what was computed.
Before each question the context is emptied, as by a prompt that begins with other words.
Every cache may hold 512 MiB. The conversations before are computed by PooledLlama; \
LlamaRAMCache gets copies of the state of one under other tokens, the last of them only, twice as \
many as its limit takes, because it has dropped what came before.
PooledLlama keeps whole blocks of 16 tokens: the prefix once, and of each conversation the whole \
blocks of its question. LlamaRAMCache keeps all tokens of every conversation.
The memory of LlamaRAMCache is the sum of the bytes, logits and tokens of its states. Its limit \
counts the bytes alone."""


class Side:
    """One way to ask; it keeps the tokens that came first."""

    def __init__(self, llama: Any) -> None:
        self.llama = llama
        self.said: list[str] = []

    def fill(self, prompt: list[int]) -> None:
        """Have a conversation before; without a cache nothing is left of it."""

    def nbytes(self) -> int:
        """Return the bytes that are kept now."""
        return 0

    def ask(self, prompt: list[int]) -> float:
        """Ask a question; return the milliseconds to the first token."""
        self.llama.reset()
        begun = seconds()
        answer = self.llama.create_completion(prompt, max_tokens=1, temperature=0)
        took = seconds() - begun
        self.said.append(answer["choices"][0]["text"])
        return took * 1e3


class PooledSide(Side):
    """Blocks in a pool."""

    def __init__(self, file: str) -> None:
        self._manager = KVCacheManager(LIMIT, "mmap", receipts=False)
        super().__init__(PooledLlama(file, manager=self._manager, **OPTIONS))

    def fill(self, prompt: list[int]) -> None:
        """Have a conversation before."""
        self.ask(prompt)
        self.said.pop()

    def nbytes(self) -> int:
        """Return the bytes that the pool uses."""
        return self._manager.get_stats().used_memory


class RamSide(Side):
    """Whole states in the cache of llama-cpp-python."""

    def __init__(self, file: str) -> None:
        super().__init__(llama_cpp.Llama(file, **OPTIONS))
        self._cache = llama_cpp.LlamaRAMCache(LIMIT)
        self.llama.set_cache(self._cache)
        self._state: LlamaState | None = None

    def fill(self, prompt: list[int]) -> None:
        """Keep a copy of the first state under other tokens; the first conversation is real."""
        if self._state is None:
            self.ask(prompt)
            self.said.pop()
            self._state = self.llama.save_state()
            return
        state = self._state
        self._cache[prompt] = LlamaState(
            input_ids=state.input_ids.copy(),
            scores=state.scores.copy(),
            n_tokens=state.n_tokens,
            llama_state=bytes(bytearray(state.llama_state)),
            llama_state_size=state.llama_state_size,
            seed=state.seed,
        )

    def needs(self) -> int:
        """Return how many conversations fill the cache twice."""
        return 2 * LIMIT // self._state.llama_state_size if self._state else LIMIT

    def nbytes(self) -> int:
        """Return the bytes of all states."""
        states: Any = self._cache.cache_state.values()
        return sum(
            len(state.llama_state)
            + np.asarray(state.scores).nbytes
            + np.asarray(state.input_ids).nbytes
            for state in states
        )


class Asker:
    """Makes prompts that begin alike."""

    def __init__(self, llama: Any, prefix: int) -> None:
        self._llama = llama
        rules = (RULE.format(number=n, letter=chr(ord("A") + n % 26)) for n in range(prefix))
        self._prefix = llama.tokenize("".join(rules).encode())[:prefix]
        self._asked = 0

    def prompt(self) -> list[int]:
        """Return the prefix and another question, as tokens."""
        self._asked += 1
        question = (
            f"\nQuestion {self._asked}: what is on shelf {self._asked}, and which books are to the "
            "left and to the right of them? Name the letters of all three in one sentence, and "
            f"say where to begin.\nAnswer: on shelf {self._asked} are"
        )
        return [*self._prefix, *self._llama.tokenize(question.encode(), add_bos=False)]


def run(quick: bool) -> Report:
    """Measure every side after each number of conversations."""
    file = small_model_file()
    if file is None:
        raise UnavailableError(f"{SMALL_MODEL} is not installed: {HOW_TO_INSTALL}")
    report = Report("llama.cpp: the first token after a shared prefix")
    report.versions = {"llama-cpp-python": metadata.version("llama-cpp-python")}
    report.notes += NOTES.splitlines()
    counts = QUICK_CONVERSATIONS if quick else CONVERSATIONS
    measure(report, str(file), QUICK_PREFIX if quick else PREFIX, counts, 2 if quick else ROUNDS)
    return report


def measure(report: Report, file: str, prefix: int, counts: tuple[int, ...], rounds: int) -> None:
    """Ask questions on every side in turns, after more and more conversations."""
    ram = RamSide(file)
    sides: dict[str, Side] = {
        POOLED: PooledSide(file),
        RAM: ram,
        NONE: Side(llama_cpp.Llama(file, **OPTIONS)),
    }
    asker, had = Asker(ram.llama, prefix), 0
    for count in counts:
        prompts = [asker.prompt() for _ in range(count - had)]
        had = count
        for prompt in prompts:
            sides[POOLED].fill(prompt)
        ram.fill(prompts[0])
        for prompt in prompts[1:][-ram.needs() :]:
            ram.fill(prompt)
        kept = {name: side.nbytes() for name, side in sides.items()}
        questions = [asker.prompt() for _ in range(rounds)]  # the same ones for each side
        asks = {name: partial(_ask_next, side, iter(questions)) for name, side in sides.items()}
        samples = interleave(asks, rounds)
        _add(report, f"{count:,} conversations, a prefix of {prefix:,} tokens", samples, kept)
    for name, side in sides.items():
        if side.said != sides[NONE].said:
            raise AssertionError(f"{name} says {side.said}, not {sides[NONE].said}")


def _ask_next(side: Side, prompts: Iterator[list[int]]) -> float:
    return side.ask(next(prompts))


def _add(report: Report, what: str, samples: dict[str, list[float]], kept: dict[str, int]) -> None:
    """Add the time and the memory of every side, and how they compare."""
    times = {name: median(f"first token: {what}", name, "ms", samples[name]) for name in samples}
    memory = {
        name: median(f"memory: {what}", name, "MiB", [kept[name] / 2**20]) for name in (POOLED, RAM)
    }
    report.measurements += [*times.values(), *memory.values()]
    for theirs in (times[RAM], times[NONE]):
        value = theirs.value / times[POOLED].value
        report.ratios.append(Ratio(theirs.what, times[POOLED], theirs, "times as fast", value))
    ours, other = memory[POOLED], memory[RAM]
    report.ratios.append(
        Ratio(ours.what, ours, other, "times the memory", ours.value / other.value)
    )
