"""`CacheKey`: the name of a session."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CacheKey"]


class CacheKey(NamedTuple):
    """The name of a session's entry, unique in one manager.

    Parameters
    ----------
    namespace : str
        Separates tenants, models or purposes.
    id : int or str
        Names the session inside the namespace.

    Examples
    --------
    >>> str(CacheKey("chat", 42))
    'chat/42'
    """

    namespace: str
    id: int | str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.id}"
