"""The interface of sinks: where receipts go."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from kvpool.receipts.types import Receipt

__all__ = ["ReceiptSink", "SinkFactory"]


class ReceiptSink(ABC):
    """Takes the receipts of one manager, one after the other.

    Notes
    -----
    *Threads.* A sink is never called under the manager's lock, and never by two threads at
    once. It may be slow: then only those threads wait that find too many receipts queued. It
    may call the manager, but for `is_listening`.

    *Failures.* A sink may raise an `Exception`: the first one is logged, all are counted, and
    neither the manager nor another sink notices. Any other `BaseException`, such as the
    `KeyboardInterrupt` of a user, reaches the caller of the manager, whose call is complete.

    *Interrupts.* After an interrupt or a `MemoryError` a call is made again. A sink that must
    have each receipt once compares `pool_id` and `sequence` with those of the last receipt.
    """

    @property
    def name(self) -> str:
        """The sink's name in messages."""
        return type(self).__name__

    @property
    def is_listening(self) -> bool:
        """Whether a receipt would be used now. If no sink listens, no receipt is made.

        The manager asks under its lock: the answer must come at once and without a call of
        the manager.
        """
        return True

    @abstractmethod
    def emit(self, receipt: Receipt, /) -> None:
        """Take one receipt. They come in the order of their sequence numbers."""

    @abstractmethod
    def flush(self) -> None:
        """Make durable what was emitted, as far as the sink can."""

    @abstractmethod
    def close(self) -> None:
        """Release files and the like. Called after the last receipt; again if interrupted."""


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
