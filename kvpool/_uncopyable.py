"""`Uncopyable`: what owns something that a copy of it would share, and close."""

from __future__ import annotations

from typing import NoReturn, SupportsIndex

from kvpool.errors import NotCopyableError

__all__ = ["Uncopyable"]


class Uncopyable:
    """Refuses `copy.copy`, `copy.deepcopy` and `pickle`."""

    __slots__ = ()

    def __reduce_ex__(self, _protocol: SupportsIndex, /) -> NoReturn:
        raise NotCopyableError(
            f"{self!r} cannot be copied, pickled or sent to another process: "
            "it owns memory or a file, which a copy would share"
        )
