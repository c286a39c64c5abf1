"""`ChatSession`: one conversation, and what of it the pool holds."""

from __future__ import annotations

from dataclasses import dataclass, field

from kvpool.cache_key import CacheKey
from kvpool.entry import KVCacheEntry
from kvpool.errors import KVPoolError

__all__ = ["ChatError", "ChatSession", "Turn"]


class ChatError(KVPoolError, ValueError):
    """What was asked for cannot be done; nothing has changed."""


@dataclass(slots=True)
class ChatSession:
    """A conversation.

    Attributes
    ----------
    name : str
    messages : list of dict
        With ``role`` and ``content``.
    text : str
        The conversation as the model saw it, and what it answered.
    tokens : list of int
        Those of `text`. What the pool holds are the first of them.
    used_at : float
        Seconds of the book's clock.
    entry : KVCacheEntry or None
        None where the pool holds nothing of it.
    """

    name: str
    messages: list[dict[str, str]]
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    used_at: float = 0.0
    entry: KVCacheEntry | None = None

    @property
    def key(self) -> CacheKey:
        """Names it in the pool."""
        return CacheKey("chat", self.name)

    @property
    def held(self) -> int:
        """Tokens that the pool holds."""
        return 0 if self.entry is None else self.entry.token_count


@dataclass(frozen=True, slots=True)
class Turn:
    """What a message and its answer came to.

    Attributes
    ----------
    prompt_tokens, reused_tokens : int
        Tokens of the conversation up to the answer, and those of them that the pool held.
    answer_tokens : int
    was_stopped : bool
        Whether the listener wanted the answer to end.
    is_open : bool
        Whether the answer has no end of its own.
    """

    prompt_tokens: int
    reused_tokens: int
    answer_tokens: int
    was_stopped: bool
    is_open: bool
