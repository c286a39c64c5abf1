"""The errors of an engine, below `kvpool.errors.KVPoolError`."""

from __future__ import annotations

from kvpool.errors import KVPoolError

__all__ = ["EngineClosedError", "ModelFailedError", "QueueFullError"]


class EngineClosedError(KVPoolError, RuntimeError):
    """The engine is closed, or has failed: its ``__cause__`` is then what went wrong."""


class QueueFullError(KVPoolError):
    """As many requests wait as may wait.

    Parameters
    ----------
    waiting : int
        Requests that wait.
    retry_after : float

    Attributes
    ----------
    retry_after : float
        Seconds after which a place is probably free.
    """

    def __init__(self, waiting: int, retry_after: float) -> None:
        super().__init__(waiting, retry_after)
        self.retry_after = retry_after

    def __str__(self) -> str:
        waiting, seconds = self.args
        return f"{waiting} requests wait already: try again in {seconds:.0f} s"


class ModelFailedError(KVPoolError, RuntimeError):
    """The model, what chooses its tokens, or an eviction policy raised: see the ``__cause__``."""
