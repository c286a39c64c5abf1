"""`CacheKey`: the name of a session."""

from __future__ import annotations

import re
from typing import NamedTuple

from kvpool.errors import InvalidArgumentError

__all__ = ["CacheKey"]

_NUMBER = re.compile(r"-?[0-9]+")
_TEXT = re.compile(r"((?:[^\\/]|\\.)*)/(.*)", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


class CacheKey(NamedTuple):
    r"""The name of a session's entry, unique in one manager.

    Parameters
    ----------
    namespace : str
        Separates tenants, models or purposes.
    id : int or str
        Names the session inside the namespace.

    Notes
    -----
    ``str(key)`` is ``namespace/id``; errors and receipts show it so. Different keys have
    different texts: each backslash is doubled, and a backslash is put before a slash in the
    namespace, and before an id that is a str and reads like a number.

    Examples
    --------
    >>> str(CacheKey("chat", 42)), str(CacheKey("chat", "a/b"))
    ('chat/42', 'chat/a/b')
    >>> print(CacheKey("chat", "42"), CacheKey("chat/a", "b"))
    chat/\42 chat\/a/b
    """

    namespace: str
    id: int | str

    @classmethod
    def parse(cls, text: str) -> CacheKey:
        r"""Return the key of which this is the text, as errors and ledgers show it.

        Raises
        ------
        InvalidArgumentError
            `text` is not the text of a key.

        Examples
        --------
        >>> CacheKey.parse("chat/42"), CacheKey.parse(r"chat/\42")
        (CacheKey(namespace='chat', id=42), CacheKey(namespace='chat', id='42'))
        """
        match = _TEXT.fullmatch(str(text))
        if match is not None:
            namespace, name = _ESCAPED.sub(r"\1", match[1]), match[2]
            try:
                number = int(name) if _NUMBER.fullmatch(name) else None
            except ValueError:  # more digits than Python makes a number of
                number = 0
            key = cls(namespace, _ESCAPED.sub(r"\1", name) if number is None else number)
            if str(key) == text:
                return key
        raise InvalidArgumentError(f"{text!r} is not the text of a key, such as 'chat/42'")

    def __str__(self) -> str:
        namespace = self.namespace.replace("\\", r"\\").replace("/", r"\/")
        if not isinstance(self.id, str):
            return f"{namespace}/{int(self.id)}"  # ids that are equal have one text: True and 1
        mark = "\\" if _NUMBER.fullmatch(self.id) else ""
        name = self.id.replace("\\", r"\\")
        return f"{namespace}/{mark}{name}"
