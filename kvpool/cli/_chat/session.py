"""`ChatSession`: one conversation, and its entry in the pool."""

from __future__ import annotations

from dataclasses import dataclass, field

from kvpool.cache_key import CacheKey
from kvpool.entry import KVCacheEntry
from kvpool.errors import KVPoolError

__all__ = ["NAMESPACE", "ChatError", "ChatSession", "Turn"]

NAMESPACE = "chat"
"""What the keys of all sessions begin with."""


class ChatError(KVPoolError, ValueError):
    """A chat command or message cannot be carried out; nothing has changed."""


@dataclass(slots=True)
class ChatSession:
    """A conversation and its entry in the pool.

    Attributes
    ----------
    name : str
    messages : list of dict
        With ``role`` and ``content``.
    text : str
        The conversation as the model sees it, with its answers.
    tokens : list of int
        The tokens of `text`. The pool holds the first `held` of them.
    used_at : float
        Seconds of the book's clock.
    entry : KVCacheEntry or None
        None if the pool does not hold the session.
    """

    name: str
    messages: list[dict[str, str]]
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    used_at: float = 0.0
    entry: KVCacheEntry | None = None

    @property
    def key(self) -> CacheKey:
        """Key of the session in the pool."""
        return CacheKey(NAMESPACE, self.name)

    @property
    def held(self) -> int:
        """Number of tokens that the pool holds."""
        return 0 if self.entry is None else min(self.entry.token_count, len(self.tokens))


@dataclass(frozen=True, slots=True)
class Turn:
    """The figures of a message and its answer.

    Attributes
    ----------
    prompt_tokens, reused_tokens : int
        Tokens of the conversation before the answer, and how many of them were not computed.
    loaded_tokens : int
        How many of the reused ones came from tiers. The pool held the others.
    answer_tokens : int
    was_stopped : bool
        Whether the listener stopped the answer.
    is_open : bool
        Whether the answer was cut off before its end token.
    """

    prompt_tokens: int
    reused_tokens: int
    loaded_tokens: int
    answer_tokens: int
    was_stopped: bool
    is_open: bool
