"""What the tests of `kvpool chat` share."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from transformers import DynamicCache

from kvpool.integrations.chat import PREFILL_TOKENS, ChatModel, ChatModelError
from kvpool.integrations.transformers import cache_argument
from tests.support.hf import Computed

__all__ = [
    "PREFILL_TOKENS",
    "ChatModel",
    "ChatModelError",
    "Computed",
    "Heard",
    "a_message",
    "brief",
    "continuation",
    "tiny",
    "tiny_tokenizer",
]

torch.set_num_threads(1)  # the model is so small that threads would only wait for each other


@functools.cache
def tiny(temperature: float | None = 0, max_context_length: int | None = None) -> ChatModel:
    """Return the tiny model. It takes the likeliest token by default, and never ends of itself."""
    made = ChatModel.tiny(temperature=temperature, max_context_length=max_context_length)
    made.settings.suppress_tokens.append(made.settings.eos_token_id)
    made.settings.eos_token_id = None
    return made


def brief() -> ChatModel:
    """Return the tiny model if all that it says is that it has ended."""
    made = ChatModel.tiny(temperature=0)
    end = made.settings.eos_token_id
    made.settings.suppress_tokens = [one for one in range(len(made.tokenizer)) if one != end]
    return made


def tiny_tokenizer() -> Any:
    """Return a copy of the tokenizer of the tiny model."""
    return copy.deepcopy(tiny().tokenizer)


def continuation(of: ChatModel, tokens: list[int], count: int) -> list[int]:
    """Return how a model goes on, without a pool."""
    made = of.model.generate(
        torch.tensor([tokens]),
        generation_config=of.settings,
        max_new_tokens=count,
        **{cache_argument(of.model): DynamicCache()},
    )
    answer: list[int] = made[0, len(tokens) :].tolist()
    return answer


def a_message(text: str, role: str = "user") -> dict[str, str]:
    return {"role": role, "content": text}


class Heard:
    """Listens to an answer, and stops it after some of its tokens, or steps of its prompt."""

    def __init__(self, most_tokens: int = 1000, most_steps: int = 1000) -> None:
        self.tokens: list[int] = []
        self.steps: list[tuple[int, int]] = []
        self._most_tokens = most_tokens
        self._most_steps = most_steps

    def on_read(self, done: int, total: int) -> None:
        self.steps.append((done, total))

    def on_token(self, token: int) -> None:
        self.tokens.append(token)

    def should_stop(self) -> bool:
        return len(self.tokens) >= self._most_tokens or len(self.steps) > self._most_steps
