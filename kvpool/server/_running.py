"""`Server`: an application over HTTP, which answers what it has accepted before it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from kvpool._checks import check_number
from kvpool.errors import KVPoolError
from kvpool.serving import Engine

__all__ = ["ListenError", "Server", "bound_socket"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SPARE_SECONDS = 5.0  # for clients that read slowly, after the last token


class ListenError(KVPoolError, OSError):
    """A server cannot listen where it should; the text says where, and why."""


def bound_socket(host: str, port: int) -> socket.socket:
    """Return a socket on which nothing listens yet, so that a taken port is found early.

    Parameters
    ----------
    host : str
        A name or an address, of IPv4 or IPv6.
    port : int
        0 for any that is free.

    Raises
    ------
    ListenError
        The host is unknown, or the system refuses the port.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        with contextlib.ExitStack() as undo:
            made = undo.enter_context(socket.socket(family, kind, protocol))
            if os.name == "posix":  # elsewhere it would let two servers share a port
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
            undo.pop_all()
    except OSError as error:
        raise ListenError(f"cannot listen on {host}, port {port}: {error.strerror}") from error
    return made


class Server:
    """Serves an application over HTTP, until a signal or `stop` ends it.

    Parameters
    ----------
    app : ASGI application
        From `create_app`.
    engine : Engine
        Its engine. The server closes it when it ends.
    listener : socket
        Bound; the server closes it.
    drain_seconds : float, default 60
        How long it answers what it has accepted, before it cancels that.
    access_log : bool, default False
        Whether each request is a line of the log ``uvicorn.access``.
    on_start, on_drain : callable
        Called when requests are accepted, and when none are accepted any more.

    Raises
    ------
    InvalidArgumentError
        `drain_seconds` is out of its range.

    Attributes
    ----------
    port : int
    signal : int or None
        The signal that ended it.
    was_hurried : bool
        Whether a second signal ended it, before everything was answered.
    """

    def __init__(
        self,
        app: ASGIApp,
        engine: Engine,
        listener: socket.socket,
        *,
        drain_seconds: float = 60.0,
        access_log: bool = False,
        on_start: Callable[[], object] = lambda: None,
        on_drain: Callable[[], object] = lambda: None,
    ) -> None:
        check_number("drain_seconds", drain_seconds, at_least=0)
        self.port: int = listener.getsockname()[1]
        self._listener = listener
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=access_log,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=int(drain_seconds + _SPARE_SECONDS),
        )
        self._server = _Draining(config, engine, drain_seconds, on_start, on_drain)

    @property
    def signal(self) -> int | None:
        """The signal that ended it; None if there was none."""
        return self._server.signal

    @property
    def was_hurried(self) -> bool:
        """Whether it ended before everything was answered, because it was told twice."""
        return self._server.force_exit

    def run(self) -> None:
        """Serve until a signal or `stop`. SIGINT and SIGTERM are handled in the main thread."""
        self._server.run([self._listener])

    def stop(self) -> None:
        """Accept no more requests, and end when all are answered; a second call ends it at once.

        Any thread may call.
        """
        self._server.stop()


class _Draining(uvicorn.Server):
    """uvicorn's server, which closes an engine while it waits for the last responses."""

    def __init__(
        self,
        config: uvicorn.Config,
        engine: Engine,
        drain_seconds: float,
        on_start: Callable[[], object],
        on_drain: Callable[[], object],
    ) -> None:
        super().__init__(config)
        self._engine = engine
        self._drain_seconds = drain_seconds
        self._on_start = on_start
        self._on_drain = on_drain
        self.signal: int | None = None

    def stop(self) -> None:
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while serving, and let the caller say what becomes of them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; at a second signal at once, and a third one does what it does to any program."""
        del frame
        self.signal = self.signal or sig
        if self.should_exit:
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
        self.stop()

    async def main_loop(self) -> None:
        """Serve."""
        self._on_start()
        await super().main_loop()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what was accepted, up to a time, while nothing new is."""
        self._on_drain()
        draining = asyncio.ensure_future(asyncio.to_thread(self._engine.close, self._drain_seconds))
        hurrying = asyncio.ensure_future(self._hurry())
        await super().shutdown(sockets)
        hurrying.cancel()
        if self.force_exit:
            await asyncio.to_thread(self._engine.close, drain=False)
        await draining

    async def _hurry(self) -> None:
        """Wait for a second signal; then leave all clients, and end what is computed for them."""
        while not self.force_exit:
            await asyncio.sleep(0.05)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.to_thread(self._engine.close, drain=False)
