"""The interface of sinks: where receipts go."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from kvpool.receipts.types import Receipt

__all__ = ["ReceiptSink", "SinkFactory"]


class ReceiptSink(ABC):
    """Takes the receipts of one manager, one after the other.

    A sink is never called under the manager's lock, and never by two threads at once. It may
    be slow: then only those threads wait that have too many receipts queued. It may raise:
    that is reported once and counted, and neither the pool nor another sink notices.
    """

    @property
    def name(self) -> str:
        """What messages call the sink."""
        return type(self).__name__

    @property
    def is_listening(self) -> bool:
        """Whether a receipt would be used now. Where no sink listens, none is made."""
        return True

    @abstractmethod
    def emit(self, receipt: Receipt, /) -> None:
        """Take one receipt. They come in the order of their sequence numbers."""

    @abstractmethod
    def flush(self) -> None:
        """Make what was emitted last, as far as the sink can."""

    @abstractmethod
    def close(self) -> None:
        """Let go of files and the like. Called once, after the last receipt."""


@dataclass(frozen=True, slots=True)
class SinkFactory:
    """What a plugin says of a sink.

    Parameters
    ----------
    create : callable
        Takes the options as keywords and returns a new `ReceiptSink`.
    summary : str
        One line for people who choose a sink.
    options : mapping of str to str
        What each option means.
    """

    create: Callable[..., ReceiptSink]
    summary: str
    options: Mapping[str, str] = field(default_factory=dict)
