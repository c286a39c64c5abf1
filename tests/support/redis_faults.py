"""What may happen to a real redis-server while others use it."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

import pytest
from redis import Redis

from tests.support.redis_server import RedisServer

__all__ = ["FAULTS", "FaultyServer", "states_of"]

FAULTS: Final = ("killed", "paused", "full", "restarted empty", "corrupted", "slow")

_LINES = {
    "does not answer": "D",
    "one call is made": "P",
    "answers again": "A",
}


class FaultyServer:
    """A redis-server behind a relay, to which one thing happens between `begin` and `end`.

    Parameters
    ----------
    folder : Path
    fault : str
        One of `FAULTS`.
    """

    def __init__(self, folder: Path, fault: str) -> None:
        self._fault = fault
        self._server = RedisServer(folder)
        self._relay = _Relay(self._server.port)

    @property
    def url(self) -> str:
        """Return the URL of a tier in the server."""
        return f"redis://127.0.0.1:{self._relay.port}"

    def _client(self) -> Any:
        return Redis(port=self._server.port)

    def begin(self) -> None:
        """Let it happen."""
        if self._fault in {"killed", "restarted empty"}:
            self._server.kill()
        if self._fault == "restarted empty":
            self._server.start()
        elif self._fault == "paused":
            self._server.pause()
        elif self._fault == "slow":
            self._relay.delay = 2.0  # longer than a budget of 1 s
        elif self._fault == "full":
            with self._client() as client:
                client.config_set("maxmemory", "1")
        elif self._fault == "corrupted":
            with self._client() as client:
                for key in client.keys("*"):
                    value = bytearray(client.get(key))
                    value[-1] ^= 1
                    client.set(key, bytes(value))

    def end(self) -> None:
        """Let the server be as before."""
        if self._fault == "killed":
            self._server.start()
        elif self._fault == "paused":
            self._server.go_on()
        elif self._fault == "slow":
            self._relay.delay = 0.0
        elif self._fault == "full":
            with self._client() as client:
                client.config_set("maxmemory", "0")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.kill()
        self._relay.close()


class _Relay:
    """Hands bytes on between a port of its own and another one, the answers after a delay."""

    def __init__(self, port: int) -> None:
        self.delay = 0.0
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                self._join(client)

    def _join(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            client.close()
            return
        for one, other, is_answer in ((client, server, False), (server, client, True)):
            arguments = one, other, is_answer
            threading.Thread(target=self._hand_on, args=arguments, daemon=True).start()

    def _hand_on(self, one: socket.socket, other: socket.socket, is_answer: bool) -> None:
        with suppress(OSError):
            while data := one.recv(1 << 16):
                if is_answer and self.delay:
                    time.sleep(self.delay)
                other.sendall(data)
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        self._listener.close()


def states_of(records: Sequence[Any], tier: str) -> str:
    """Return the changes of state that were logged, each as a letter, after a check of their order.

    D: the tier does not answer. P: one call is made to see. A: it answers again.
    """
    lines = [record.getMessage() for record in records if record.name.startswith("kvpool")]
    letters = [
        letter
        for line in lines
        for text, letter in _LINES.items()
        if text in line and line.startswith(f"tier {tier}")
    ]
    states = "".join(letters)
    if not re.fullmatch(r"(D(PD)*(PA)?)*P?", states):
        pytest.fail(f"the log does not have one line for each change of state: {states}")
    return states
