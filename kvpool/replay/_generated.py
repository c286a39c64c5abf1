"""A generated trace of conversations with several turns, for use without a trace file."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from kvpool.replay._request import TraceRequest

__all__ = ["HASH_BLOCK_TOKENS", "conversations"]

HASH_BLOCK_TOKENS = 16
"""Tokens per block of the generated requests."""

_OPEN_AT_ONCE = 24  # conversations
_SECONDS_BETWEEN = 5.0  # arrivals, on average


def conversations(requests: int, seed: int = 0) -> Iterator[TraceRequest]:
    """Yield the requests of several parallel conversations, in the order of their arrival.

    Parameters
    ----------
    requests : int
        How many.
    seed : int
        The same seed gives the same requests.

    Yields
    ------
    TraceRequest
        With the ids of blocks of `HASH_BLOCK_TOKENS` tokens, so that it says what it continues.

    Examples
    --------
    >>> sum(request.tokens > 0 for request in conversations(100))
    100
    """
    dice = random.Random(seed)
    ids = itertools.count()
    talking: list[_Conversation] = []
    arrival = 0.0
    for _ in range(requests):
        arrival += dice.expovariate(1 / _SECONDS_BETWEEN)
        if not talking or (len(talking) < _OPEN_AT_ONCE and dice.random() < 0.4):
            talking.append(_Conversation(dice.randint(2, 7), ids))
        speaker = dice.choice(talking)
        yield speaker.turn(arrival, _length(dice, 180), _length(dice, 120))
        if not speaker.turns_left:
            talking.remove(speaker)


class _Conversation:
    """A conversation so far: each prompt repeats all of it."""

    def __init__(self, turns: int, ids: Iterator[int]) -> None:
        self.turns_left = turns
        self._ids = ids
        self._blocks: list[int] = []  # of the latest prompt, but for one that is not full
        self._tokens = 0  # of the latest prompt and the reply to it

    def turn(self, arrival: float, message: int, reply: int) -> TraceRequest:
        prompt = self._tokens + message
        missing = -(-prompt // HASH_BLOCK_TOKENS) - len(self._blocks)
        blocks = (*self._blocks, *itertools.islice(self._ids, missing))
        # What stands behind the last full block will be another block with the next message.
        self._blocks = list(blocks[: prompt // HASH_BLOCK_TOKENS])
        self._tokens = prompt + reply
        self.turns_left -= 1
        return TraceRequest(arrival, prompt, reply, blocks)


def _length(dice: random.Random, median: int) -> int:
    """Return a number of tokens; as in real traces, most are short and a few are long."""
    return max(1, min(round(dice.lognormvariate(0, 0.7) * median), 8 * median))
