"""`Job`: one request, from its acceptance to its end."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kvpool.cache_key import CacheKey
from kvpool.serving._generation import Stream, TokenLogprob, Usage
from kvpool.serving._request import Request

if TYPE_CHECKING:
    from kvpool.integrations.transformers import OpeningCache, PooledCache
    from kvpool.serving._sampling import Sampler
    from kvpool.serving._text import AnswerText

__all__ = ["Job"]


class Job:
    """One request, and how far it is. It belongs to the engine's thread, but for `is_cancelled`.

    Parameters
    ----------
    request : Request
    prompt : ndarray of int64
    max_tokens : int
    key : CacheKey or None
    cost : int
        Bytes that its session may grow to.
    number : int
        Counts the requests.
    now : float
        Seconds of the clock at which it was accepted.
    rank : float
        Jobs with a lower one come first.

    Attributes
    ----------
    tokens : ndarray of int64
        Room for prompt and answer; the first `length` are there.
    length : int
    held : int
        Tokens that its session holds.
    reused : int
        Tokens that its session began with; while it is loaded, those that the pool held.
    opening : OpeningCache or None
        Its session, while tokens are loaded into it.
    cache : PooledCache or None
        Its open session, while it computes.
    stream : Stream
    deadline : float
        Seconds of the clock; infinite without one.
    is_cancelled : bool
        Set by any thread.
    is_preempted : bool
        Whether it lost its place, and waits to go on.
    short_since : float or None
        Since when it has found no room although it is alone.
    waits_for : Job or None
        One that computes tokens which this one begins with, too.
    is_awaited : bool
        Whether another job waits for its prompt to be computed.
    """

    def __init__(
        self,
        request: Request,
        prompt: NDArray[np.int64],
        max_tokens: int,
        key: CacheKey | None,
        cost: int,
        number: int,
        now: float,
        rank: float,
    ) -> None:
        self.request = request
        self.max_tokens = max_tokens
        self.key = key
        self.cost = cost
        self.number = number
        self.accepted = now
        self.rank = (rank, number)
        self.prompt_length = self.length = len(prompt)
        self.tokens = np.empty(len(prompt) + max_tokens, np.int64)
        self.tokens[: len(prompt)] = prompt
        self.held = 0
        self.reused = 0
        self.stream = Stream(Usage(len(prompt)))
        self.deadline = math.inf if request.deadline is None else now + request.deadline
        self.is_cancelled = False
        self.is_preempted = False
        self.has_begun = False
        self.short_since: float | None = None
        self.waits_for: Job | None = None
        self.is_awaited = False
        self.last_token: float | None = None  # when it came
        self.opening: OpeningCache[PooledCache] | None = None
        self.cache: PooledCache | None = None
        self.sampler: Sampler | None = None
        self.text: AnswerText | None = None
        self.unsent: list[int] = []
        self.unsent_logprobs: list[TokenLogprob] = []

    @property
    def left(self) -> int:
        """Tokens that are known and not computed."""
        return self.length - self.held

    @property
    def is_reading(self) -> bool:
        """Whether its session is open, and its prompt is still being loaded or computed."""
        is_open = self.opening is not None or self.cache is not None
        return is_open and self.held < self.prompt_length

    def all_tokens(self) -> NDArray[np.int64]:
        """Return the prompt, and the answer so far."""
        return self.tokens[: self.length]

    def say(self, token: int) -> None:
        """Add a token to the answer."""
        self.tokens[self.length] = token
        self.length += 1
        self.unsent.append(token)
        prompt, cached, said = self.stream.usage
        self.stream.usage = Usage(prompt, cached, said + 1)

    @property
    def said(self) -> int:
        """Tokens of the answer so far."""
        return self.length - self.prompt_length

    def cancel(self) -> None:
        """End it at the next opportunity."""
        self.is_cancelled = True
