"""Texts of others, such as session ids, on a terminal or in a log."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    r"""Return a text on one line, without characters that do something instead of showing.

    Examples
    --------
    >>> printable("chat/\x1b[2J\n")
    'chat/\\x1b[2J\\n'
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _escaped(one) for one in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
