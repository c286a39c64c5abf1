"""Where the command starts, before anything else of kvpool or of another project is imported."""

from __future__ import annotations

import importlib
import os
import signal

from kvpool._first_use import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["main"]

_EXIT_CODE = 130  # what shells expect after Ctrl-C


def main() -> None:
    """Run the command ``kvpool``. Its exit code is 130 after Ctrl-C, at any moment.

    Imports and the end of the interpreter do not stand a `KeyboardInterrupt`: the exception comes
    out as a traceback, as an `ImportError` or not at all. Nothing is open then, so Ctrl-C ends the
    process. A shell that has the command ignore Ctrl-C, as one in the background, is obeyed.
    """
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heeded:
        signal.signal(signal.SIGINT, _end)
    run = importlib.import_module("kvpool.cli._app").run
    try:
        if heeded:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        run()
    except KeyboardInterrupt:
        raise SystemExit(_EXIT_CODE) from None
    finally:
        if heeded:
            signal.signal(signal.SIGINT, _end)


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(_EXIT_CODE)
