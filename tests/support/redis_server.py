"""A real redis-server on a port of the loopback, for one test or module."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

from tests.support import needs

__all__ = ["RedisServer", "free_port"]


def free_port() -> int:
    """Return a port that nobody listens on, and whose cluster bus port (10000 higher) is valid."""
    while True:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
        if port <= 55_000:
            return port


class RedisServer:
    """A server that ends with the ``with`` block, and can be stopped, killed and started again.

    Parameters
    ----------
    folder : Path
        Where it keeps what it writes.
    *options : str
        More of its command line, such as ``"--maxmemory", "4mb"``.
    """

    def __init__(self, folder: Path, *options: str, port: int | None = None) -> None:
        program = shutil.which("redis-server")
        if program is None:
            needs.missing("redis", "redis-server is not installed (apt-get install redis-server)")
        self.port = free_port() if port is None else port
        self._command = [
            program,
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder)),
            *("--save", "", "--appendonly", "no", "--daemonize", "no"),
            *options,
        ]
        self._log = folder / f"redis-{self.port}.log"
        self.start()

    @property
    def url(self) -> str:
        """Return the URL of a tier in the server."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Return the number of its process."""
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        until = time.monotonic() + 60
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"redis-server does not start: {self._log.read_text()[-2000:]}")
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return bool(connection.recv(64))
        except OSError:
            return False

    def kill(self) -> None:
        """End it at once, with all that it holds."""
        self._process.send_signal(signal.SIGCONT)
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        """Let it answer nobody until `go_on`."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it answer again."""
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
