"""`CacheKey`: the name of a session."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["CacheKey"]

_NUMBER = re.compile(r"-?[0-9]+")


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

    def __str__(self) -> str:
        namespace = self.namespace.replace("\\", r"\\").replace("/", r"\/")
        if not isinstance(self.id, str):
            return f"{namespace}/{int(self.id)}"  # ids that are equal have one text: True and 1
        mark = "\\" if _NUMBER.fullmatch(self.id) else ""
        name = self.id.replace("\\", r"\\")
        return f"{namespace}/{mark}{name}"
