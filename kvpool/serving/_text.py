"""`AnswerText`: the text of an answer as its tokens come, up to a stop text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

__all__ = ["AnswerText", "TokenDecoder"]


class TokenDecoder(Protocol):
    """Turns tokens into text as they come; see `kvpool.integrations.chat.TokenText`."""

    def add(self, token: int) -> str:
        """Return the text that is complete now and was not before."""

    def rest(self) -> str:
        """Return the text of what was held back."""


class AnswerText:
    """The text of an answer, of which what may be the beginning of a stop text is held back.

    Parameters
    ----------
    decoder : TokenDecoder
    stops : sequence of str
        Texts that end the answer, wherever tokens begin and end.

    Attributes
    ----------
    is_stopped : bool
        Whether a stop text came. Nothing is returned from then on.
    """

    def __init__(self, decoder: TokenDecoder, stops: Sequence[str]) -> None:
        self._decoder = decoder
        self._stops = stops
        self._held = ""
        self.is_stopped = False

    def add(self, token: int) -> str:
        """Return the text that may be shown now and was not before."""
        return self._shown(self._decoder.add(token))

    def rest(self) -> str:
        """Return what was held back; no token comes any more."""
        text = self._shown(self._decoder.rest())
        rest, self._held = self._held, ""
        return text if self.is_stopped else text + rest

    def _shown(self, new: str) -> str:
        if self.is_stopped or not (new or self._held):
            return ""
        text = self._held + new
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.is_stopped = True
            self._held = ""
            return text[: min(found)]
        shown = len(text) - max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[shown:]
        return text[:shown]


def _overlap(text: str, stop: str) -> int:
    """Return how many of the last characters of a text are the first ones of a stop text."""
    for count in range(min(len(stop) - 1, len(text)), 0, -1):
        if stop.startswith(text[-count:]):
            return count
    return 0
