"""The errors of traces."""

from __future__ import annotations

from kvpool.errors import KVPoolError

__all__ = ["BrokenLineError", "TraceError"]

_SHOWN = 80  # characters of an offending line that a message quotes


class TraceError(KVPoolError, ValueError):
    """A trace cannot be read as a whole; the text names the file."""


class BrokenLineError(TraceError):
    """A line of a trace is malformed.

    Attributes
    ----------
    path : str
    line : int
        Its number, from 1.
    reason : str
        What is wrong with it.
    text : bytes
        The line without its end; a message shows how it begins.
    """

    def __init__(self, path: str, line: int, reason: str, text: bytes) -> None:
        self.path = path
        self.line = line
        self.reason = reason
        self.text = text
        super().__init__(f"{path}:{line}: {reason}: {_shown(text)}")

    def __reduce__(self) -> tuple[type[BrokenLineError], tuple[str, int, str, bytes]]:
        return type(self), (self.path, self.line, self.reason, self.text)


def _shown(text: bytes) -> str:
    """Return the beginning of a line, quoted as in Python source."""
    try:
        shown = repr(text.decode("utf-8")[:_SHOWN])
    except UnicodeDecodeError:
        shown = repr(text[:_SHOWN])
    return shown if len(text) <= _SHOWN else f"{shown}… ({len(text)} bytes)"
