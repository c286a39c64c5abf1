"""`kvpool serve` as a process of its own."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
import time
from typing import Self

from tests.support.terminal import KVPOOL, environment

__all__ = ["ServeProcess"]

_PATIENCE = 120  # seconds, only so that a test that is wrong has an end


class ServeProcess:
    """The installed command, with the tiny model, on a free port.

    Attributes
    ----------
    errors : list of str
        The lines of standard error so far.
    port : int
        Known when `wait_until_ready` has returned.
    """

    def __init__(self, *arguments: str, **variables: str) -> None:
        self._process = subprocess.Popen(
            [KVPOOL, "serve", "--tiny", "--port", "0", *arguments],
            env=environment(OMP_NUM_THREADS="1", **variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self.port = 0
        self.errors: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.errors.append(line.rstrip("\n"))

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait for a line of standard error that has a pattern."""
        end = time.monotonic() + _PATIENCE
        while True:
            for line in list(self.errors):
                if match := re.search(pattern, line):
                    return match
            assert self._process.poll() is None, self.errors
            assert time.monotonic() < end, f"{pattern!r} never came: {self.errors}"
            time.sleep(0.02)

    def wait_until_ready(self) -> Self:
        """Wait until it serves."""
        self.port = int(self.wait_for(r"serving tiny on http://[^ ]+:(\d+)/v1")[1])
        return self

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def leave(self) -> int:
        """Wait for its end; return the exit code. Standard output must be empty."""
        code = self._process.wait(_PATIENCE)
        self._reader.join(_PATIENCE)
        assert self._process.stdout is not None
        assert self._process.stdout.read() == ""
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()
