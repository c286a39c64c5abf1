"""The installed command in a terminal of its own, where Ctrl-C is a key and a signal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import struct
import subprocess
import sys
import termios
import time
from typing import Self

from tests.support.terminal import KVPOOL, environment, unmeasured

__all__ = ["Terminal"]

# The terminal must be the one that controls the process, else its Ctrl-C is no signal.
_LAUNCH = (
    "import fcntl, os, sys, termios; "
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\a]*\a|[()].|[=>78M])")
_PATIENCE = 120  # seconds, only so that a test that is wrong has an end


class Terminal:
    """80 columns and 24 rows with ``kvpool`` in it.

    Parameters
    ----------
    *arguments : str
    interrupted : bool, default False
        Whether a Ctrl-C will be a signal, not a key: such a process is not measured.

    Attributes
    ----------
    shown : str
        Everything that came so far, without escape sequences.
    raw : str
        The same with them.
    """

    def __init__(self, *arguments: str, interrupted: bool = False) -> None:
        self._ours, its = os.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        variables = {"TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1", "OMP_NUM_THREADS": "1"}
        surroundings = unmeasured if interrupted else environment
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, KVPOOL, *arguments],
            env=surroundings(**variables),
            stdin=its,
            stdout=its,
            stderr=its,
            start_new_session=True,
        )
        os.close(its)
        self.raw = ""
        self._seen = 0

    @property
    def shown(self) -> str:
        return _ESCAPES.sub("", self.raw)

    def press(self, keys: str) -> None:
        """Press keys; what is waited for next must come after that."""
        self._seen = len(self.shown)
        os.write(self._ours, keys.encode())

    def wait_for(self, pattern: str) -> str:
        """Wait until something is shown; return what was since the last keys."""
        until = time.monotonic() + _PATIENCE
        while not re.search(pattern, self.shown[self._seen :]):
            assert time.monotonic() < until, f"{pattern!r} never came: {self.shown!r}"
            assert self._read(), f"it ended before {pattern!r} came: {self.shown!r}"
        return self.shown[self._seen :]

    def leave(self, keys: str = "") -> int:
        """Wait for the end of the process; return its exit code.

        Parameters
        ----------
        keys : str
            Pressed again after ten seconds without an end. A Ctrl-C can be lost: Python only
            prints one that comes while an object ends. Pressed sooner, it could come as the
            interpreter ends, which has no handlers any more.
        """
        start = pressed = time.monotonic()
        while self._read():
            now = time.monotonic()
            assert now < start + _PATIENCE, f"it never ended: {self.shown!r}"
            if keys and now > pressed + 10:
                pressed = now
                with contextlib.suppress(OSError):  # it ended just now
                    os.write(self._ours, keys.encode())
        return self._process.wait(_PATIENCE)

    def _read(self) -> bool:
        """Take what is there within a second; return False at the end."""
        if not select.select([self._ours], [], [], 1)[0]:
            return True
        try:
            chunk = os.read(self._ours, 65536)
        except OSError:  # how a terminal says that nobody is there any more
            return False
        self.raw += chunk.decode("utf-8", "replace")
        return bool(chunk)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)
