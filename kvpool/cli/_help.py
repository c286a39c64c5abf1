"""The help of a command, from its docstring."""

from __future__ import annotations

import inspect
from collections.abc import Callable

__all__ = ["help_of"]


def help_of(command: Callable[..., object]) -> str:
    """Return the docstring with each paragraph on one line, which the terminal then wraps."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    return "\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs)
