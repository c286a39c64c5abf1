"""The command `kvpool` as a function: what it prints, and its exit code, without a new process.

It runs in the process of the tests. So it is measured with them, where each process of its own
takes coverage a quarter of a second, and plugins are those that the tests have. What depends on the
start or the end of Python, or on which plugins there are, needs `tests.support.terminal`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import __main__
from kvpool.cli import main
from tests.support.terminal import environment

__all__ = ["run"]


def run(
    *arguments: str, encoding: str = "utf-8", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Call the command to its end, and return what it printed.

    Parameters
    ----------
    *arguments : str
    encoding : str
        The encoding of standard output and standard error.
    **variables : str
        Variables of the environment, which else has nothing that could change the output.

    Notes
    -----
    An exception that the command does not expect is raised here, and so is a warning.
    """
    with tempfile.TemporaryDirectory(prefix="kvpool-command-") as folder:
        out, err = Path(folder, "stdout"), Path(folder, "stderr")
        with (
            mock.patch.dict(os.environ, environment(**variables), clear=True),
            mock.patch.object(sys, "argv", ["kvpool", *arguments]),
            mock.patch.object(__main__, "__package__", None),  # or it is "python -m pytest"
            Path(os.devnull).open(encoding="utf-8") as nothing,
            mock.patch.object(sys, "stdin", nothing),
            out.open("w", encoding=encoding) as shown,
            err.open("w", encoding=encoding, errors="backslashreplace") as told,
            contextlib.redirect_stdout(shown),
            contextlib.redirect_stderr(told),
            _handlers_of_signals(),
        ):
            code = _exit_code()
        texts = [file.read_text(encoding) for file in (out, err)]
    return subprocess.CompletedProcess(["kvpool", *arguments], code, *texts)


def _exit_code() -> int:
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@contextlib.contextmanager
def _handlers_of_signals() -> Iterator[None]:
    """Put back what the command leaves to a process that ends with it."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
