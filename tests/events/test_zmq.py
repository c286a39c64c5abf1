"""Events over real sockets: what subscribers see, miss, and ask for again."""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq

from kvpool.errors import InvalidArgumentError
from kvpool.events import (
    AllBlocksCleared,
    BlockStored,
    EndpointError,
    Event,
    EventBatch,
    ZmqPublisher,
    decode_batch,
)
from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager
from tests.support.injection import every_place
from tests.support.sessions import key_of

LAYOUT = KVLayout(layers=1, kv_heads=1, head_dim=4, dtype="float16")
HERE = "tcp://127.0.0.1:*"
MARKS = itertools.count(1_000_000)  # tokens that no test uses
PATIENCE = 60_000  # milliseconds; nothing here takes that long unless it fails


def publisher(**options: Any) -> ZmqPublisher:
    return ZmqPublisher(HERE, HERE, **options)


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    with zmq.Context() as context:
        yield context


class Subscriber:
    """A router: it listens, sees gaps, and asks for what it missed."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], events: ZmqPublisher, topic: bytes = b""
    ) -> None:
        self.socket = context.socket(zmq.SUB)
        self.socket.subscribe(topic)
        self.socket.connect(events.endpoint)
        self.replay = context.socket(zmq.DEALER)
        if events.replay_endpoint is not None:
            self.replay.connect(events.replay_endpoint)

    def read(self) -> tuple[int, EventBatch]:
        """Return number and content of the next batch."""
        assert self.socket.poll(PATIENCE), "no batch came"
        topic, number, payload = self.socket.recv_multipart()
        assert len(number) == 8
        self.topic = topic
        return int.from_bytes(number, "big"), decode_batch(payload)

    def ask(self, first: int) -> list[tuple[int, EventBatch]]:
        """Return the batches from a number on that are kept."""
        self.replay.send_multipart([b"", first.to_bytes(8, "big")])
        batches: list[tuple[int, EventBatch]] = []
        while True:
            assert self.replay.poll(PATIENCE), "no answer came"
            empty, number, payload = self.replay.recv_multipart()
            assert empty == b""
            if int.from_bytes(number, "big", signed=True) == -1:
                assert payload == b""
                return batches
            batches.append((int.from_bytes(number, "big"), decode_batch(payload)))

    def ask_for_all(self) -> list[tuple[int, EventBatch]]:
        """Return all batches that are kept, once there is one."""
        until = time.monotonic() + PATIENCE / 1000
        while not (batches := self.ask(0)):
            assert time.monotonic() < until, "no batch is kept"
        return batches

    def close(self) -> None:
        self.socket.close(0)
        self.replay.close(0)


@pytest.fixture
def subscribe(
    context: zmq.Context[zmq.Socket[bytes]],
) -> Iterator[Callable[[ZmqPublisher], Subscriber]]:
    made: list[Subscriber] = []

    def subscribe(events: ZmqPublisher, topic: bytes = b"") -> Subscriber:
        made.append(Subscriber(context, events, topic))
        return made[-1]

    yield subscribe
    for one in made:
        one.close()


def made(events: ZmqPublisher) -> KVCacheManager:
    return KVCacheManager(1 << 20, "numpy", LAYOUT, receipts=False, chunk_tokens=4, events=events)


def serve(manager: KVCacheManager, tokens: Sequence[int], number: int = 1) -> None:
    entry, left = manager.open_session(tokens, key_of(number))
    new = np.zeros((1, 1, left, 4), "float16")
    entry.extend(new, new)
    manager.close_session(entry, tokens)


def wait_until_heard(manager: KVCacheManager, subscriber: Subscriber) -> int:
    """Publish until a subscriber has joined; return the number of the last batch of all."""
    for number in itertools.islice(MARKS, PATIENCE // 10):
        serve(manager, [number] * 4, 99)
        if subscriber.socket.poll(10):
            break
    return publish(manager, subscriber, [next(MARKS)] * 4, 99)


def publish(
    manager: KVCacheManager, subscriber: Subscriber, tokens: Sequence[int], number: int = 1
) -> int:
    """Serve a prompt of one chunk, and read until it is told; return the number of the batch."""
    serve(manager, tokens, number)
    while True:
        read, batch = subscriber.read()
        last = batch.events[-1]
        if isinstance(last, BlockStored) and last.token_ids == list(tokens):
            return read


Subscribe = Callable[..., Subscriber]


def test_a_subscriber_that_joins_late_asks_for_what_it_missed(subscribe: Subscribe) -> None:
    with made(events := publisher(data_parallel_rank=2)) as manager:
        serve(manager, range(9))
        subscriber = subscribe(events)
        last = wait_until_heard(manager, subscriber)
        assert last > 0  # it missed the first one
        batches = subscriber.ask(0)
        assert [number for number, _ in batches] == list(range(last + 1))
        number, first = batches[0]
        stored = first.events[0]
        assert isinstance(stored, BlockStored)
        assert (number, stored.token_ids, first.data_parallel_rank) == (0, list(range(8)), 2)
        assert abs(first.ts - time.time()) < 3600
        assert [number for number, _ in subscriber.ask(last)] == [last]
        assert subscriber.ask(last + 1) == []
        assert publish(manager, subscriber, range(100, 104)) > last


def test_a_gap_is_seen_and_filled(subscribe: Subscribe) -> None:
    with made(events := publisher()) as manager:
        witness, router = subscribe(events), subscribe(events)
        wait_until_heard(manager, witness)
        last = wait_until_heard(manager, router)
        router.close()  # its connection is lost
        missed = publish(manager, witness, range(5000, 5004))
        router = subscribe(events)
        read = wait_until_heard(manager, router)
        assert read > last + 1
        batches = dict(router.ask(last + 1))
        assert batches.keys() >= set(range(last + 1, read))
        stored = batches[missed].events[-1]
        assert isinstance(stored, BlockStored)
        assert stored.token_ids == list(range(5000, 5004))


def test_what_is_not_kept_any_more_shows_in_the_first_number(subscribe: Subscribe) -> None:
    with made(events := publisher(buffer_steps=3)) as manager:
        subscriber = subscribe(events)
        wait_until_heard(manager, subscriber)
        for number in range(5):
            last = publish(manager, subscriber, [number] * 4, number)
        assert [number for number, _ in subscriber.ask(0)] == [last - 2, last - 1, last]
        events.resend()
        count = len(manager)  # any call
        _, batch = subscriber.read()
        assert batch.events[0] == AllBlocksCleared()
        assert len(batch.events) == 1 + count


def test_topics_and_forms_are_as_the_options_say(subscribe: Subscribe) -> None:
    with made(events := publisher(topic="kv@pod-1@model", form="array")) as manager:
        subscriber = subscribe(events, b"kv@")
        for number in range(PATIENCE // 10):
            serve(manager, [number] * 4, 99)
            if subscriber.socket.poll(10):
                break
        topic, _, payload = subscriber.socket.recv_multipart()
    assert topic == b"kv@pod-1@model"
    assert msgspec.msgpack.decode(payload)[1][-1][0] == "BlockStored"


def test_closing_sends_what_is_queued(subscribe: Subscribe) -> None:
    manager = made(events := publisher())
    subscriber = subscribe(events)
    wait_until_heard(manager, subscriber)
    serve(manager, range(8))
    manager.close()
    told: list[Event] = []
    while not told or told[-1] != AllBlocksCleared():
        told += subscriber.read()[1].events
    assert any(isinstance(event, BlockStored) for event in told)
    assert not [one for one in threading.enumerate() if one.name == "kvpool-events"]
    events.close()
    manager.close()


def test_one_that_nothing_refers_to_ends() -> None:
    manager = made(publisher())
    serve(manager, range(8))
    (thread,) = [one for one in threading.enumerate() if one.name == "kvpool-events"]
    alive = weakref.ref(manager)
    del manager
    gc.collect()
    assert alive() is None
    thread.join(PATIENCE / 1000)
    assert not thread.is_alive()


def test_requests_that_are_none_are_left_unanswered(
    subscribe: Subscribe, caplog: pytest.LogCaptureFixture
) -> None:
    with made(events := publisher()) as manager, caplog.at_level(logging.WARNING):
        subscriber = subscribe(events)
        serve(manager, range(8))
        for odd in [b"x"], [b"", b"short"], [b"", b"12345678", b"more"], [b"x", b"12345678"]:
            subscriber.replay.send_multipart(odd)
        assert len(subscriber.ask_for_all()) == 1
    assert len(caplog.records) == 4


def test_an_endpoint_that_is_taken_is_named(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    taken = context.socket(zmq.PUB)
    taken.bind(HERE)
    endpoint = taken.get_string(zmq.LAST_ENDPOINT)
    with pytest.raises(EndpointError, match=f"cannot bind '{endpoint}'") as raised:
        ZmqPublisher(endpoint)
    assert isinstance(raised.value, OSError)
    with pytest.raises(EndpointError, match="cannot bind 'nowhere'"):
        ZmqPublisher(HERE, "nowhere")
    with pytest.raises(EndpointError, match="cannot connect to 'nowhere'"):
        ZmqPublisher("nowhere", connect=True)
    taken.close(0)


def test_it_connects_to_a_router_that_is_bound(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    router = context.socket(zmq.SUB)
    router.subscribe(b"")
    router.bind(HERE)
    events = ZmqPublisher(router.get_string(zmq.LAST_ENDPOINT), connect=True)
    assert events.replay_endpoint is None
    with made(events) as manager:
        for number in range(PATIENCE // 10):
            serve(manager, [number] * 4, 99)
            if router.poll(10):
                break
        assert len(router.recv_multipart()) == 3
    router.close(0)


@pytest.mark.parametrize(
    ("option", "odd"),
    [
        ("endpoint", None),
        ("replay_endpoint", 5557),
        ("endpoint", "ipc://\ud800"),
        ("replay_endpoint", "\ud800"),
        ("topic", b"kv"),
        ("topic", "\ud800"),
        ("form", "json"),
        ("data_parallel_rank", -1),
        ("data_parallel_rank", 1 << 64),
        ("buffer_steps", 1.5),
        ("buffer_steps", (1 << 31) - 1),
        ("hwm", 0),
        ("hwm", 1 << 31),
        ("hashes", "md5"),
    ],
)
def test_odd_options_are_refused(option: str, odd: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=option):
        ZmqPublisher(**{"endpoint": HERE, option: odd})


def test_without_pyzmq_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['zmq'] = None\n"
        "from kvpool.events import EventQueue, ZmqPublisher\n"
        "EventQueue()\n"
        "ZmqPublisher('tcp://127.0.0.1:*')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert 'install "kvpool[events]"' in done.stderr.splitlines()[-1]


def test_a_full_queue_begins_anew_by_itself(subscribe: Subscribe) -> None:
    with made(events := publisher(limit=1)) as manager:
        subscriber = subscribe(events)
        told: list[Event] = []
        for number in range(PATIENCE):
            serve(manager, [number, *range(11)], number % 3)
            while subscriber.socket.poll(1):
                told += subscriber.read()[1].events
            if AllBlocksCleared() in told:
                break
        assert AllBlocksCleared() in told


def test_an_interrupt_of_a_call_does_not_let_the_thread_sleep(subscribe: Subscribe) -> None:
    with made(events := publisher()) as manager:
        subscriber = subscribe(events)
        wait_until_heard(manager, subscriber)
        for injection in every_place("interrupt"):
            with contextlib.suppress(KeyboardInterrupt), injection:
                events.wake()
            publish(manager, subscriber, [next(MARKS)] * 4)


def test_an_end_that_was_interrupted_is_made_by_the_second_call() -> None:
    before = set(threading.enumerate())
    for injection in every_place("interrupt"):
        events = publisher()
        with contextlib.suppress(KeyboardInterrupt), injection:
            events.close()
        events.close()
        assert set(threading.enumerate()) <= before, injection.where


def test_ipc_endpoints(tmp_path: Path, subscribe: Subscribe) -> None:
    if sys.platform == "win32":
        pytest.skip("there are no such endpoints on Windows")
    events = ZmqPublisher(f"ipc://{tmp_path}/e", f"ipc://{tmp_path}/r")
    with made(events) as manager:
        serve(manager, range(8))
        assert len(subscribe(events).ask_for_all()) == 1
