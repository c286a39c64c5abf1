"""A server of kvpool in a thread, and plain HTTP to talk to it."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.routing import Mount

from kvpool.integrations.metrics import EngineCollector, PoolCollector
from kvpool.manager import KVCacheManager
from kvpool.server import Server, bound_socket, create_app
from kvpool.serving import Engine

__all__ = ["Reply", "Served", "events", "serving", "until"]

_PATIENCE = 60  # seconds, only so that a test that is wrong has an end


class Reply(NamedTuple):
    """A response."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def error(self) -> dict[str, Any]:
        """The object that says what is wrong."""
        told: dict[str, Any] = self.json["error"]
        return told


class Served:
    """A server that runs.

    Attributes
    ----------
    engine : Engine
    server : Server
    base_url : str
        For clients of OpenAI.
    """

    def __init__(self, engine: Engine, server: Server, thread: threading.Thread) -> None:
        self.engine = engine
        self.server = server
        self.base_url = f"http://127.0.0.1:{server.port}/v1"
        self._thread = thread

    def open(
        self,
        method: str,
        path: str,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> http.client.HTTPConnection:
        """Send a request over a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=_PATIENCE)
        connection.request(method, path, content, dict(headers or {}))
        return connection

    def ask(
        self,
        method: str,
        path: str,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send a request, and return the whole response."""
        connection = self.open(method, path, content, headers)
        try:
            response = connection.getresponse()
            named = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, named, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        """Send a GET."""
        return self.ask("GET", path, None, headers)

    def post(self, path: str, body: Any, **headers: str) -> Reply:
        """Send a body as JSON."""
        return self.ask("POST", path, json.dumps(body).encode(), _JSON | headers)

    def start(self, path: str, body: Any) -> http.client.HTTPConnection:
        """Send a body as JSON, and return the connection at once."""
        return self.open("POST", path, json.dumps(body).encode(), _JSON)

    def wait(self) -> None:
        """Wait for the end of the server."""
        self._thread.join(_PATIENCE)
        assert not self._thread.is_alive()


_JSON = {"Content-Type": "application/json"}


@contextmanager
def serving(
    engine: Engine,
    manager: KVCacheManager,
    drain_seconds: float = 60.0,
    send_buffer: int | None = None,
    mounted_at: str = "",
    **options: Any,
) -> Iterator[Served]:
    """Serve an engine under the name ``tiny``; at the end of the block the server ends at once.

    With `send_buffer` the system keeps no more bytes than it must for clients that do not read.
    With `mounted_at` the application is a part of another one, at this path.
    """
    registry = CollectorRegistry()
    registry.register(PoolCollector(manager))
    registry.register(EngineCollector(engine))
    app = create_app(engine, "tiny", registry=registry, **options)
    if mounted_at:
        app = Starlette(routes=[Mount(mounted_at, app)])
    started = threading.Event()
    listener = bound_socket("127.0.0.1", 0)
    if send_buffer is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    server = Server(
        app,
        engine,
        listener,
        drain_seconds=drain_seconds,
        on_start=started.set,
    )
    thread = threading.Thread(target=server.run, name="server")
    thread.start()
    assert started.wait(_PATIENCE)
    try:
        yield Served(engine, server, thread)
    finally:
        server.stop()
        server.stop()
        thread.join(_PATIENCE)
        assert not thread.is_alive()


def events(content: bytes) -> list[Any]:
    """Return the events of a stream, each of which is JSON, and the last one a word."""
    blocks = content.decode().split("\n\n")
    assert blocks.pop() == ""
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    found = [block.removeprefix("data: ") for block in blocks]
    return [one if one == "[DONE]" else json.loads(one) for one in found]


def until(fact: Callable[[], bool]) -> None:
    """Wait until something is so."""
    end = time.monotonic() + _PATIENCE
    while not fact():
        assert time.monotonic() < end
        time.sleep(0.005)
