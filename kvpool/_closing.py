"""`Closing`: the base class of objects that a ``with`` block closes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

from kvpool._uncopyable import Uncopyable

__all__ = ["Closing"]


class Closing(Uncopyable, ABC):
    """A context manager that calls `close`, which may be called more than once."""

    @abstractmethod
    def close(self) -> None:
        """Release all resources; a second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
