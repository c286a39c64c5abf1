"""Engines with a tiny model, and what the model says without one."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import DynamicCache

from kvpool.integrations.chat import ChatModel
from kvpool.manager import KVCacheManager
from kvpool.serving import Engine

__all__ = ["TOKEN", "Gate", "alone", "hook", "make_engine", "settings", "text_of", "tiny", "tokens"]

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


def make_engine(manager: KVCacheManager, **options: Any) -> Engine:
    """Return an engine with the tiny model."""
    made = tiny()
    return Engine(
        made.model, made.tokenizer, manager, **{"generation_config": made.settings} | options
    )


def tokens(text: str) -> list[int]:
    """Return the tokens of a text."""
    made: list[int] = tiny().tokenizer.encode(text)
    return made


def text_of(ids: Sequence[int]) -> str:
    """Return the text of tokens, all at once."""
    return tiny().text_of(ids)


def alone(
    prompt: Sequence[int], count: int, seed: int | None = None, **options: Any
) -> tuple[int, ...]:
    """Return the answer of ``generate``, without an engine and without a pool."""
    if seed is not None:
        torch.manual_seed(seed)
    ids = torch.tensor([list(prompt)])
    made = tiny().model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        past_key_values=DynamicCache(),
        generation_config=settings(max_new_tokens=count, **options),
    )
    return tuple(made[0, len(prompt) :].tolist())


@contextmanager
def hook(act: Callable[[Any], object], model: Any = None) -> Iterator[None]:
    """Call a function with the input ids of each forward of the tiny model, before it."""

    def before(_model: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        act(kwargs["input_ids"])

    handle = (model or tiny().model).register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


class Gate:
    """Lets the forwards of a model through one by one, or all.

    Use it with `hook`: the forward that comes to a closed gate waits.
    """

    def __init__(self, *, is_open: bool = False) -> None:
        self._passes = threading.Semaphore(0)
        self._is_open = is_open
        self.arrived = threading.Semaphore(0)
        self.sizes: list[int] = []  # new tokens of each forward

    def __call__(self, input_ids: Any) -> None:
        self.sizes.append(input_ids.shape[1])
        self.arrived.release()
        if not self._is_open:
            assert self._passes.acquire(timeout=60)

    def let(self, count: int = 1) -> None:
        """Let some forwards pass."""
        self._passes.release(count)

    def open(self) -> None:
        """Let all pass from now on."""
        self._is_open = True
        self._passes.release()

    def wait(self) -> None:
        """Wait until a forward has come that was not waited for yet."""
        assert self.arrived.acquire(timeout=60)
