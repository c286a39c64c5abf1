"""A real Mooncake master on ports of the loopback, for one test or module."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path
from urllib.request import urlopen

from tests.support.redis_server import free_port

__all__ = ["MooncakeMaster"]


class MooncakeMaster:
    """A process `mooncake_master`, with its HTTP service.

    Parameters
    ----------
    program : Path
        It lies in the package mooncake.
    folder : Path
        Where its log goes.
    """

    def __init__(self, program: Path, folder: Path) -> None:
        for _ in range(5):  # another process may take a port before the master has it
            if self._has_started(program, folder):
                return
        raise RuntimeError(f"the master does not start: see {folder / 'master.log'}")

    def _has_started(self, program: Path, folder: Path) -> bool:
        """Start it on free ports, and wait until it answers on both of them."""
        self.port, self.admin = free_port(), free_port()
        arguments = [
            *(f"--rpc_port={self.port}", "--rpc_address=127.0.0.1"),
            *(f"--metrics_port={self.admin}", "--metrics_host=127.0.0.1"),
            "--default_kv_lease_ttl=100",  # milliseconds
        ]
        with (folder / "master.log").open("wb") as log:
            self._process = subprocess.Popen([program, *arguments], stdout=log, stderr=log)
        until = time.monotonic() + 60
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > until:
                self.kill()
                return False
            time.sleep(0.02)
        return True

    def answers(self) -> bool:
        """Return whether it takes requests."""
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            with urlopen(f"http://127.0.0.1:{self.admin}/health", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    @property
    def url(self) -> str:
        """Return the URL of a tier in the cluster."""
        return f"mooncake://127.0.0.1:{self.port}?admin=127.0.0.1:{self.admin}"

    def kill(self) -> None:
        """End it at once, with all that it knows."""
        self._process.kill()
        self._process.wait()
