"""Who listens to an answer while it is made, as `generate` of transformers wants it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from transformers.generation.stopping_criteria import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

__all__ = ["Listener", "StopWhen", "TokenStreamer"]


class Listener(Protocol):
    """Observes the tokens of an answer, and may stop it."""

    def on_read(self, done: int, total: int) -> None:
        """Note that `done` of the `total` tokens to compute of the prompt were computed."""

    def on_token(self, token: int) -> None:
        """Receive a token of the answer."""

    def should_stop(self) -> bool:
        """Tell whether to stop here."""


class TokenStreamer(BaseStreamer):
    """Hands the tokens of an answer on, one by one; first comes the prompt."""

    def __init__(self, take: Callable[[int], None]) -> None:
        self._take = take
        self._is_prompt = True

    def put(self, value: Any) -> None:
        """Take the next token, or the prompt."""
        if not self._is_prompt:
            self._take(int(value.item()))
        self._is_prompt = False

    def end(self) -> None:
        """Note the end."""


class StopWhen(StoppingCriteria):
    """Ends an answer after the token that is there."""

    def __init__(self, should_stop: Callable[[], bool]) -> None:
        self._should_stop = should_stop

    def __call__(self, input_ids: Any, _scores: Any, **_options: Any) -> Any:
        return torch.full((input_ids.shape[0],), self._should_stop(), dtype=torch.bool)
