"""`TraceRequest`: one row of a trace."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TraceRequest"]


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One request to a model server.

    Attributes
    ----------
    arrival : float
        Seconds, from any origin.
    prompt_tokens, generated_tokens : int
        Not negative, and not both 0.
    hash_blocks : tuple of int
        Ids of the blocks of the prompt, where the trace has them. An id names its block and
        everything before it, so two prompts with one id in common begin alike up to there.
    """

    arrival: float
    prompt_tokens: int
    generated_tokens: int
    hash_blocks: tuple[int, ...] = ()

    @property
    def tokens(self) -> int:
        """Tokens of the session after the request."""
        return self.prompt_tokens + self.generated_tokens
