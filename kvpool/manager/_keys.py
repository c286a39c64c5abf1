"""The check of what is to be the key of a session."""

from __future__ import annotations

import operator

from kvpool.cache_key import CacheKey
from kvpool.errors import InvalidArgumentError

__all__ = ["check_key"]


def check_key(key: object) -> None:
    """Raise unless an object can be the key of a session.

    Raises
    ------
    InvalidArgumentError
        `key` is not a `CacheKey`, or its parts are not those of one.
    """
    if isinstance(key, CacheKey) and isinstance(key.namespace, str):
        try:
            if not isinstance(key.id, str):
                operator.index(key.id)
            hash(key)  # unlike that of an array without dimensions
        except TypeError:
            pass  # the id is neither a str nor a whole number
        else:
            return
    raise InvalidArgumentError(
        f"a key must be a CacheKey of a str and an int or str, such as CacheKey('chat', 42), "
        f"not {key!r}"
    )
