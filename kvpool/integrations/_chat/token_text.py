"""The text of tokens that come one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["TokenText"]

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_MOST_HELD_BACK = 8  # more than the bytes of any character


class TokenText:
    """Turns tokens into text as they come; the bytes of a character are shown together.

    What a token looks like may depend on those before it, so the last ones that were shown are
    decoded again with the new ones, and only what is new is returned.

    Parameters
    ----------
    decode : callable
        Returns the text of a sequence of tokens.

    Examples
    --------
    >>> letters = TokenText(lambda tokens: bytes(tokens).decode("utf-8", "replace"))
    >>> [letters.add(byte) for byte in "né".encode()]
    ['n', '', 'é']
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._shown: list[int] = []
        self._new: list[int] = []

    def add(self, token: int) -> str:
        """Return the text that is complete now and was not before."""
        self._new.append(token)
        text = self._text()
        if text.endswith(_REPLACEMENT) and len(self._new) < _MOST_HELD_BACK:
            return ""
        self._shown, self._new = self._new, []
        return text

    def rest(self) -> str:
        """Return the text of what was held back; nothing comes after it."""
        text = self._text() if self._new else ""
        self._shown, self._new = [], []
        return text

    def _text(self) -> str:
        before = self._decode(self._shown)
        return self._decode([*self._shown, *self._new])[len(before) :]
