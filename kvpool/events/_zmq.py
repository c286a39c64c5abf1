"""`ZmqPublisher`: events over ZeroMQ, as vLLM publishes them."""

from __future__ import annotations

import logging
import threading
import weakref
from typing import TYPE_CHECKING, Final

from kvpool import _optional_imports
from kvpool._checks import whole_number
from kvpool._process import current
from kvpool.errors import InvalidArgumentError
from kvpool.events._encoding import Form
from kvpool.events._queue import EventQueue, Hashes, check_text

if TYPE_CHECKING:
    from kvpool.events._sockets import Sender

__all__ = ["ZmqPublisher"]

_log = logging.getLogger(__name__)

_CLOSE_SECONDS: Final = 10.0  # only a socket that hangs takes so long
_MOST_EVENTS: Final = 1_000  # of a batch
_MOST: Final = 1_000_000_000  # of what ZeroMQ counts in 32 bits


class ZmqPublisher(EventQueue):
    """Publishes the events of a manager with ZeroMQ, in the messages of vLLM's publisher.

    A thread of its own takes the events, names the chunks and sends them. No call of the manager
    waits for it.

    Parameters
    ----------
    endpoint : str
        Where subscribers connect, such as ``"tcp://127.0.0.1:5557"``, ``"tcp://*:5557"`` or
        ``"ipc:///run/kvpool.events"``. Port ``*`` is one that is free.
    replay_endpoint : str, optional
        Where subscribers ask for batches that they missed. By default nowhere.
    topic : str, default ""
        The first part of each message.
    connect : bool, default False
        Whether to connect to `endpoint`, where a router has bound it, and not to bind it.
    form : {"map", "array"}, default "map"
        See `encode_batch`. ``"array"`` is for routers that were made for vLLM before 0.26.
    data_parallel_rank : int, optional
        Is part of each batch.
    buffer_steps : int, default 10,000
        Batches that are kept to be sent again.
    hwm : int, default 100,000
        Messages that may wait for one subscriber. It misses those past that.
    hashes, medium, base_model, limit
        See `EventQueue`.

    Attributes
    ----------
    endpoint : str
        With the port that was chosen.
    replay_endpoint : str or None

    Raises
    ------
    EndpointError
        A socket cannot be bound or connected.
    InvalidArgumentError
        An option is not one of those above.
    MissingExtraError
        pyzmq is not installed; ``kvpool[events]`` brings it.

    Notes
    -----
    *Messages.* Topic, number of the batch as 8 bytes (big endian, from 0 on), and the batch as
    msgpack. A subscriber that finds a gap between two numbers has missed what is between.

    *Replay.* A request is an empty part and the first number that is wanted, as 8 bytes. The
    answers are an empty part, number and batch for each batch that is kept, and at the end the
    number -1 and no batch. If the first one has a larger number than the one that was asked for,
    more was missed than is kept.

    *Security.* The events have token ids, that is, prompts. All programs that can
    connect can read them.

    *End.* The manager closes the publisher, which sends what is queued and `AllBlocksCleared`, and
    waits for that for at most ten seconds. One that nothing refers to any more ends as well.
    """

    def __init__(
        self,
        endpoint: str,
        replay_endpoint: str | None = None,
        *,
        topic: str = "",
        connect: bool = False,
        form: Form = "map",
        data_parallel_rank: int | None = None,
        buffer_steps: int = 10_000,
        hwm: int = 100_000,
        hashes: Hashes = "int",
        medium: str | None = "CPU",
        base_model: str = "",
        limit: int = 100_000,
    ) -> None:
        super().__init__(hashes=hashes, medium=medium, base_model=base_model, limit=limit)
        check_text("endpoint", endpoint)
        check_text("topic", topic)
        if replay_endpoint is not None:
            check_text("replay_endpoint", replay_endpoint)
        if form not in ("map", "array"):
            raise InvalidArgumentError(f"form must be 'map' or 'array', not {form!r}")
        if data_parallel_rank is not None:
            whole_number(
                "data_parallel_rank", data_parallel_rank, InvalidArgumentError, least=0, most=_MOST
            )
        steps = whole_number(
            "buffer_steps", buffer_steps, InvalidArgumentError, least=0, most=_MOST
        )
        most = whole_number("hwm", hwm, InvalidArgumentError, least=1, most=_MOST)
        sockets = _optional_imports.load(
            "kvpool.events._sockets", "events", "publishing events with ZeroMQ"
        )
        self._sender: Sender = sockets.Sender(
            endpoint,
            replay_endpoint,
            connect=connect,
            hwm=most,
            buffer_steps=steps,
            topic=topic,
            form=form,
            rank=data_parallel_rank,
        )
        self.endpoint = self._sender.endpoint
        self.replay_endpoint = self._sender.replay_endpoint
        self._is_awake = False
        self._thread = threading.Thread(
            target=_run, args=(weakref.ref(self), self._sender), name="kvpool-events", daemon=True
        )
        weakref.finalize(self, self._sender.stop)
        self._thread.start()

    def wake(self) -> None:
        """Have the thread take the events."""
        if not self._is_awake and current.pid == self._owner_pid:
            try:
                self._is_awake = True
                self._sender.wake()
            except BaseException:  # an interrupt: the thread may sleep still
                self._is_awake = False
                raise

    def close(self) -> None:
        """Send what is queued, and end the thread and its sockets; a second call does nothing."""
        if current.pid == self._owner_pid:
            self._sender.stop()  # in a second call as well: the first one may have been interrupted
            if self._thread is not threading.current_thread():
                self._thread.join(_CLOSE_SECONDS)

    def publish(self) -> None:
        """Send the events that are queued; the thread calls it."""
        self._is_awake = False  # before the queue is read: what comes later wakes the thread again
        events = self.take()
        try:
            for start in range(0, len(events), _MOST_EVENTS):
                self._sender.send(events[start : start + _MOST_EVENTS])
        except BaseException:
            self.resend()
            raise


def _run(publisher: weakref.ref[ZmqPublisher], sender: Sender) -> None:
    """Send the events of a publisher until it is closed, or nothing refers to it any more."""
    try:
        _publish_all(publisher, sender)
    finally:
        sender.close()


def _publish_all(publisher: weakref.ref[ZmqPublisher], sender: Sender) -> None:
    is_last = False
    while not is_last:
        sender.wait()
        is_last = sender.is_stopped  # before the queue is read
        of = publisher()
        try:
            if of is not None:
                of.publish()
        except Exception:  # all is told again
            _log.exception("events were not published")
        del of  # so that it can end
