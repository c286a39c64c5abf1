"""Engines with a tiny model, and what the model says without one."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers
from transformers import DynamicCache

from kvpool.integrations.chat import ChatModel
from kvpool.integrations.transformers import cache_argument
from kvpool.manager import KVCacheManager
from kvpool.serving import Engine

__all__ = [
    "TOKEN",
    "Gate",
    "alone",
    "check",
    "is_likeliest",
    "make_engine",
    "of_family",
    "settings",
    "text_of",
    "tiny",
    "tokens",
]

torch.set_num_threads(1)  # the model is so small that threads would only wait for each other

TOKEN = 512  # bytes of a token of the tiny model


@functools.cache
def tiny() -> ChatModel:
    """Return the tiny model. It takes the likeliest token by default, and never ends of itself."""
    made = ChatModel.tiny(temperature=0)
    made.settings.suppress_tokens.append(made.settings.eos_token_id)
    made.settings.eos_token_id = None
    return made


def settings(**options: Any) -> Any:
    """Return how the tiny model generates, with other options."""
    made = type(tiny().settings).from_dict(tiny().settings.to_dict())
    made.update(**options)
    return made


def make_engine(manager: KVCacheManager, model: Any = None, **options: Any) -> Engine:
    """Return an engine with the tiny model, or another one of its tokens."""
    made = tiny()
    settings_of = {"generation_config": made.settings}
    return Engine(model or made.model, made.tokenizer, manager, **settings_of | options)


def check(engine: Engine, manager: KVCacheManager) -> None:
    """Stop an engine; then no session is open, and all books are right."""
    engine.close(drain=False)
    stats = engine.stats()
    assert (stats.queued, stats.running, stats.promised_bytes) == (0, 0, 0)
    assert not any(manager.is_open(key) for key in manager.session_keys())
    manager.check_integrity()


def of_family(family: str, **options: Any) -> Any:
    """Return a small model of another family, with random weights, for the same tokens."""
    sizes = {
        "vocab_size": len(tiny().tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    config = getattr(transformers, f"{family}Config")(**sizes | options)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(transformers, f"{family}ForCausalLM")(config).eval()


def tokens(text: str) -> list[int]:
    """Return the tokens of a text."""
    made: list[int] = tiny().tokenizer.encode(text)
    return made


def text_of(ids: Sequence[int]) -> str:
    """Return the text of tokens, all at once."""
    return tiny().text_of(ids)


def alone(
    prompt: Sequence[int], count: int, seed: int | None = None, model: Any = None, **options: Any
) -> tuple[int, ...]:
    """Return the answer of ``generate``, without an engine and without a pool."""
    if seed is not None:
        torch.manual_seed(seed)
    ids = torch.tensor([list(prompt)])
    of = model or tiny().model
    made = of.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        generation_config=settings(max_new_tokens=count, **options),
        **{cache_argument(of): DynamicCache()},
    )
    return tuple(made[0, len(prompt) :].tolist())


def is_likeliest(prompt: Sequence[int], said: Sequence[int]) -> bool:
    """Tell whether the tiny model finds each token of an answer likeliest, but for rounding."""
    if not said:
        return True
    with torch.no_grad():
        row = tiny().model(input_ids=torch.tensor([[*prompt, *said[:-1]]])).logits[0]
    scores = row[len(prompt) - 1 :]
    scores[:, tiny().settings.suppress_tokens] = -torch.inf
    chosen = scores.gather(1, torch.tensor(said)[:, None])[:, 0]
    return bool((scores.amax(1) - chosen < 1e-4).all())


class Gate:
    """Stands before each step of the engines' models: notes it, and may hold it up.

    Parameters
    ----------
    step : callable
        `ServedModel.step`, in whose place the gate is put.

    Attributes
    ----------
    steps : list of list of int
        How many tokens each session computed, by step.
    before : callable or None
        Is called before each step with the caches and the tokens.
    """

    def __init__(self, step: Callable[..., Any]) -> None:
        self._step = step
        self._passes = threading.Semaphore(0)
        self._arrivals = threading.Semaphore(0)
        self._is_open = True
        self.steps: list[list[int]] = []
        self.before: Callable[[Sequence[Any], Sequence[Any]], object] | None = None

    def __call__(self, model: Any, caches: Sequence[Any], tokens: Sequence[Any]) -> Any:
        self.steps.append([len(one) for one in tokens])
        self._arrivals.release()
        if not self._is_open:
            assert self._passes.acquire(timeout=60)
        if self.before is not None:
            self.before(caches, tokens)
        return self._step(model, caches, tokens)

    def shut(self) -> None:
        """Let no step pass from now on."""
        self._is_open = False

    def let(self, count: int = 1) -> None:
        """Let some steps pass."""
        self._passes.release(count)

    def open(self) -> None:
        """Let all steps pass from now on."""
        self._is_open = True
        self._passes.release()

    def wait(self, count: int = 1) -> None:
        """Wait until this many steps have come to the gate that were not waited for yet."""
        for _ in range(count):
            assert self._arrivals.acquire(timeout=60)
