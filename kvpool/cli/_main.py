"""Where the command starts, before anything else of kvpool or of another project is imported."""

from __future__ import annotations

import importlib
import os
import signal

from kvpool._first_use import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

__all__ = ["main"]

_PACKAGES = ("rich", "typer")  # what the command needs and the library does not
_EXIT_CODE = 130  # what shells expect after Ctrl-C
_TERMINATED = 128 + signal.SIGTERM  # and after SIGTERM


def main() -> None:
    """Run the command ``kvpool``. Its exit code is 130 after Ctrl-C, at any moment.

    Imports and the end of the interpreter do not stand a `KeyboardInterrupt`: the exception comes
    out as a traceback, as an `ImportError` or not at all. Nothing is open then, so Ctrl-C ends the
    process. A shell that has the command ignore Ctrl-C, as one in the background, is obeyed.

    SIGTERM, as `timeout`, `kill` and service managers send it, ends a command that runs as Ctrl-C
    does, with exit code 143: files are closed, the terminal is restored, and the processes of a
    simulation end.
    """
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    terminable = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if heeded:
        signal.signal(signal.SIGINT, _end)
    run = _command()
    try:
        if heeded:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if terminable:
            signal.signal(signal.SIGTERM, _terminate)
        run()
    except KeyboardInterrupt:
        raise SystemExit(_EXIT_CODE) from None
    finally:
        if heeded:
            signal.signal(signal.SIGINT, _end)
        if terminable:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _command() -> Callable[[], None]:
    """Return the command, or exit with the package that it lacks."""
    try:
        run: Callable[[], None] = importlib.import_module("kvpool.cli._app").run
    except ModuleNotFoundError as error:
        if error.name not in _PACKAGES:
            raise
        packages = " ".join(_PACKAGES)
        raise SystemExit(
            f"kvpool: the command needs the package {error.name}: pip install {packages}"
        ) from None
    return run


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(_EXIT_CODE)


def _terminate(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)  # the second one ends the process at once
    raise SystemExit(_TERMINATED)
