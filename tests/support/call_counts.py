"""How many calls of Python functions of kvpool something takes: the same on every machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import kvpool

__all__ = ["calls_of"]

HOME = str(Path(kvpool.__file__).parent)


def calls_of(action: Callable[[], object]) -> list[tuple[str, str]]:
    """Return file and function of every call, in order."""
    calls: list[tuple[str, str]] = []

    def note(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(HOME):
            calls.append((frame.f_code.co_filename.removeprefix(HOME), frame.f_code.co_name))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(before)
    return calls
