"""What ends a command."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["StackError"]


class StackError(Exception):
    """A command cannot go on, and nothing has been changed unless the text says so.

    Parameters
    ----------
    message : str
        What is wrong, with the offending value.
    hint : sequence of str, optional
        What to do about it, one line each; commands are complete, to be pasted.
    """

    def __init__(self, message: str, hint: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.hint = tuple(hint)
