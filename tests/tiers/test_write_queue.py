from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator

import numpy as np
import pytest

from kvpool.layout import KVLayout
from kvpool.prefix import Identity, token_bytes
from kvpool.tiers import Level, TierStore, chunks_of
from kvpool.tiers._job import Job
from kvpool.tiers._write_queue import Batch, WriteQueue
from kvpool.tiers.memory import MemoryTier

LAYOUT = KVLayout(layers=1, kv_heads=1, head_dim=8, dtype="float32")
IDENTITY = Identity("model", "", LAYOUT)
CHUNK = 4
SIZE = CHUNK * LAYOUT.bytes_per_token
PATIENCE = 60.0


def jobs(count: int) -> list[Job]:
    kv = np.ones((1, 1, count * CHUNK, 8), "float32")
    chunks = chunks_of(IDENTITY, token_bytes(range(count * CHUNK)), CHUNK)
    return [Job(chunk, kv, kv) for chunk in chunks]


class Writer:
    """Writes when it is let; notes what it was given."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.may_write, self.has_begun = threading.Event(), threading.Event()
        self.error: Exception | None = None

    def write(self, batch: Batch) -> None:
        self.has_begun.set()
        assert self.may_write.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        self.batches.append([job.chunk.name.hex() for job in batch if isinstance(job, Job)])


@pytest.fixture
def writer() -> Iterator[Writer]:
    writer = Writer()
    yield writer
    writer.may_write.set()


def drained(queue: WriteQueue) -> bool:
    queue.drain(time.monotonic() + PATIENCE, lambda: None)
    return not queue.nbytes


def test_jobs_are_written_in_order_and_what_waits_in_one_batch(writer: Writer) -> None:
    queue, (first, *others) = WriteQueue("slow", 8 * SIZE), jobs(4)
    assert queue.put(first, writer.write)
    assert writer.has_begun.wait(PATIENCE)
    assert all(queue.put(job, writer.write) for job in others)
    assert queue.nbytes == 4 * SIZE  # with the one that is being written
    writer.may_write.set()
    assert drained(queue)
    assert writer.batches == [
        [first.chunk.name.hex()],
        [job.chunk.name.hex() for job in others],
    ]
    queue.stop()


def test_a_job_without_room_is_dropped(writer: Writer) -> None:
    queue, (first, second, third) = WriteQueue("slow", 2 * SIZE), jobs(3)
    assert queue.put(first, writer.write)
    assert queue.put(second, writer.write)
    assert not queue.has_room(1)
    assert not queue.put(third, writer.write)
    assert (queue.dropped, queue.nbytes) == (1, 2 * SIZE)
    queue.stop()


def test_a_stopped_queue_drops_what_waits(writer: Writer) -> None:
    queue, (first, second, third) = WriteQueue("slow", 8 * SIZE), jobs(3)
    queue.put(first, writer.write)
    assert writer.has_begun.wait(PATIENCE)
    queue.put(second, writer.write)
    queue.stop()
    assert not queue.put(third, writer.write)
    assert (queue.dropped, queue.nbytes) == (2, SIZE)
    writer.may_write.set()
    assert drained(queue)
    assert writer.batches == [[first.chunk.name.hex()]]


def test_a_batch_that_cannot_be_written_is_dropped_and_the_next_one_is_written(
    writer: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    queue, (first, second) = WriteQueue("slow", 8 * SIZE), jobs(2)
    writer.error = KeyError("out of order")
    writer.may_write.set()
    queue.put(first, writer.write)
    assert drained(queue)
    assert "tier slow: chunks cannot be written" in caplog.text
    writer.error = None
    queue.put(second, writer.write)
    assert drained(queue)
    assert (queue.dropped, writer.batches) == (1, [[second.chunk.name.hex()]])
    queue.stop()


@pytest.mark.usefixtures("no_collector")
def test_a_level_goes_with_its_store_without_the_garbage_collector() -> None:
    level = Level(MemoryTier(1 << 20), budget=None)
    seen = weakref.ref(level)
    store = TierStore([level], chunk_tokens=CHUNK)
    del level
    kv = np.ones((1, 1, CHUNK, 8), "float32")
    assert store.put(IDENTITY, token_bytes(range(CHUNK)), kv, kv) == 1
    store.close()
    del store
    until = time.monotonic() + PATIENCE
    while seen() is not None and time.monotonic() < until:
        time.sleep(0.001)  # the thread of the level is about to end
    assert seen() is None
