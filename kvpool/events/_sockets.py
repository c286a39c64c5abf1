"""`Sender`: the sockets of a `ZmqPublisher`. It needs pyzmq."""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections import deque
from typing import Final

import zmq

from kvpool.events._encoding import Form, encode_batch
from kvpool.events._errors import EndpointError
from kvpool.events._types import Event, EventBatch

__all__ = ["Sender"]

_log = logging.getLogger(__name__)

_END: Final = (-1).to_bytes(8, "big", signed=True)  # of what is sent again
_LINGER: Final = 1_000  # milliseconds that a last batch may take to leave


class Sender:
    """The sockets of a publisher, and what it sent.

    Only `wake` and `stop` may be called by other threads than the one that runs.
    """

    def __init__(
        self,
        endpoint: str,
        replay_endpoint: str | None,
        *,
        connect: bool,
        hwm: int,
        buffer_steps: int,
        topic: str,
        form: Form,
        rank: int | None,
    ) -> None:
        self._topic = topic.encode()
        self._form = form
        self._rank = rank
        self._sent: deque[tuple[bytes, bytes]] = deque(maxlen=buffer_steps)
        self._next = 0
        self.is_stopped = False
        self._bell, self._ear = socket.socketpair()
        self._bell.settimeout(0)
        self._ear.settimeout(0)
        self._context = zmq.Context()
        self._publisher = self._context.socket(zmq.PUB)
        self._replay = self._context.socket(zmq.ROUTER)
        self._poller = zmq.Poller()
        try:
            self._publisher.set_hwm(hwm)
            self._publisher.linger = _LINGER
            self.endpoint = _open(self._publisher, endpoint, connect=connect)
            # An answer is as many messages as are kept, and the end.
            self._replay.set_hwm(buffer_steps + 2)
            self._replay.linger = 0
            self.replay_endpoint = None
            if replay_endpoint is not None:
                self.replay_endpoint = _open(self._replay, replay_endpoint, connect=False)
                self._poller.register(self._replay, zmq.POLLIN)
            self._poller.register(self._ear, zmq.POLLIN)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close all sockets; wait a little until what was sent has left."""
        self._publisher.close()
        self._replay.close()
        self._context.term()
        self._bell.close()
        self._ear.close()

    # -- any thread ----------------------------------------------------------------------

    def wake(self) -> None:
        """Let `wait` return."""
        with contextlib.suppress(OSError):  # it is full, so it wakes the thread; or it is closed
            self._bell.send(b"\0")

    def stop(self) -> None:
        """Have the thread send what is queued, and end."""
        self.is_stopped = True
        self.wake()

    # -- the thread ----------------------------------------------------------------------

    def wait(self) -> None:
        """Wait until the thread is woken; meanwhile, answer requests."""
        while True:
            ready = dict(self._poller.poll())
            if self._replay in ready:
                try:
                    self._answer()
                except zmq.ZMQError:  # one that asked is gone
                    _log.exception("a request for events was not answered")
            if self._ear.fileno() in ready:
                with contextlib.suppress(BlockingIOError):
                    self._ear.recv(4096)
                return

    def send(self, events: list[Event]) -> None:
        """Send events as one batch, and keep it."""
        number = self._next.to_bytes(8, "big")
        self._next += 1
        payload = encode_batch(EventBatch(time.time(), events, self._rank), self._form)
        self._sent.append((number, payload))
        self._publisher.send_multipart((self._topic, number, payload))

    def _answer(self) -> None:
        """Answer one request."""
        parts = self._replay.recv_multipart()
        if len(parts) != 3 or parts[1] or len(parts[2]) != 8:
            _log.warning("a request for events has %d parts, not two of 0 and 8 bytes", len(parts))
            return
        peer, _, first = parts
        for number, payload in self._sent:
            if number >= first:
                self._replay.send_multipart((peer, b"", number, payload))
        self._replay.send_multipart((peer, b"", _END, b""))


def _open(opened: zmq.Socket[bytes], endpoint: str, *, connect: bool) -> str:
    """Bind or connect a socket; return its endpoint, with the port that was chosen."""
    try:
        if connect:
            opened.connect(endpoint)
        else:
            opened.bind(endpoint)
    except zmq.ZMQError as error:
        what = "connect to" if connect else "bind"
        raise EndpointError(f"cannot {what} {endpoint!r}: {error}") from error
    return opened.get_string(zmq.LAST_ENDPOINT) or endpoint
