"""Delivery: order, one at a time, without the manager's lock; and sinks that fail."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import pytest

from kvpool.receipts import MemorySink, Receipt, ReceiptSink, ReceiptStream
from tests.support.recorder import Recorder


def some_receipts(count: int) -> list[Receipt]:
    sink = MemorySink()
    recorder = Recorder([sink])
    for _ in range(count):
        recorder.snapshot()
    return list(sink.receipts)


RECEIPTS = some_receipts(20)


class CallingSink(MemorySink):
    """Calls something before it keeps a receipt."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__()
        self._call = call

    @property
    def name(self) -> str:
        return "calling"

    def emit(self, receipt: Receipt, /) -> None:
        self._call()
        super().emit(receipt)


def test_putting_calls_no_sink_and_delivering_calls_all_in_order() -> None:
    first, second = MemorySink(), MemorySink()
    stream = ReceiptStream([first, second])
    for receipt in RECEIPTS:
        stream.put(receipt)
    assert not first.receipts
    stream.deliver()
    assert list(first.receipts) == list(second.receipts) == RECEIPTS
    assert stream.delivered == len(RECEIPTS)


def test_flush_and_close_deliver_first() -> None:
    sink = MemorySink()
    stream = ReceiptStream([sink])
    stream.put(RECEIPTS[0])
    stream.flush()
    assert (list(sink.receipts), sink.flushes, sink.closed) == (RECEIPTS[:1], 1, False)
    stream.put(RECEIPTS[1])
    stream.close()
    assert list(sink.receipts) == RECEIPTS[:2]
    assert sink.closed
    sink.closed = False
    stream.close()
    assert not sink.closed


# -- a slow sink -------------------------------------------------------------------------------


def test_thread_that_delivers_does_not_hold_up_another() -> None:
    entered, release = threading.Event(), threading.Event()

    def wait() -> None:
        entered.set()
        assert release.wait(60)

    sink = CallingSink(wait)
    stream = ReceiptStream([sink])
    stream.put(RECEIPTS[0])
    slow = threading.Thread(target=stream.deliver)
    slow.start()
    assert entered.wait(60)
    for receipt in RECEIPTS[1:]:  # at once, while the sink waits
        stream.put(receipt)
        stream.deliver()
    assert not sink.receipts
    release.set()
    slow.join(60)
    assert list(sink.receipts) == RECEIPTS


def test_too_many_waiting_hold_up_who_delivers() -> None:
    entered, release = threading.Event(), threading.Event()

    def wait() -> None:
        entered.set()
        assert release.wait(60)

    sink = CallingSink(wait)
    stream = ReceiptStream([sink], backlog=2)
    stream.put(RECEIPTS[0])
    slow = threading.Thread(target=stream.deliver)
    slow.start()
    assert entered.wait(60)
    for receipt in RECEIPTS[1:4]:
        stream.put(receipt)
    fast = threading.Thread(target=stream.deliver)
    fast.start()
    fast.join(0.2)
    assert fast.is_alive()
    release.set()
    for thread in (slow, fast):
        thread.join(60)
    assert list(sink.receipts) == RECEIPTS[:4]


def test_nothing_is_left_behind_by_many_threads() -> None:
    sink = CallingSink(lambda: time.sleep(0))
    stream = ReceiptStream([sink])
    lock, start = threading.Lock(), threading.Barrier(8)
    order: list[Receipt] = []

    def work() -> None:
        start.wait()
        for _ in range(500):
            with lock:  # the manager's
                receipt = RECEIPTS[len(order) % len(RECEIPTS)]
                order.append(receipt)
                stream.put(receipt)
            stream.deliver()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert list(sink.receipts) == order
    assert len(order) == 4000


def test_sink_may_use_what_it_is_told_of() -> None:
    stream: ReceiptStream

    def use() -> None:
        stream.deliver()
        stream.flush()
        stream.close()

    sink = CallingSink(use)
    stream = ReceiptStream([sink], backlog=1)
    for receipt in RECEIPTS:
        stream.put(receipt)
    done = threading.Thread(target=stream.deliver, daemon=True)
    done.start()
    done.join(60)
    assert not done.is_alive()
    assert list(sink.receipts) == RECEIPTS
    assert sink.closed  # at the end, because it asked for that


class UsingSink(MemorySink):
    """Uses its stream while it is flushed and closed."""

    stream: ReceiptStream

    def flush(self) -> None:
        self.stream.flush()
        super().flush()

    def close(self) -> None:
        self.stream.deliver()
        self.stream.close()
        super().close()


def test_sink_may_use_its_stream_while_it_is_flushed_and_closed() -> None:
    sink = UsingSink()
    sink.stream = stream = ReceiptStream([sink])
    for step in (stream.flush, stream.close):
        done = threading.Thread(target=step, daemon=True)
        done.start()
        done.join(60)
        assert not done.is_alive()
    assert (sink.flushes, sink.closed) == (1, True)


# -- who listens -------------------------------------------------------------------------------


class Listening(MemorySink):
    def __init__(self, answer: bool | Exception) -> None:
        super().__init__()
        self._answer = answer

    @property
    def is_listening(self) -> bool:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


@pytest.mark.parametrize(
    ("answers", "expected"),
    [([], False), ([False, False], False), ([False, True], True), ([False, OSError()], True)],
)
def test_stream_listens_if_a_sink_does(answers: list[bool | Exception], expected: bool) -> None:
    assert ReceiptStream([Listening(answer) for answer in answers]).is_listening is expected


# -- a sink that fails -------------------------------------------------------------------------


class FailingSink(ReceiptSink):
    """Raises whatever it is asked."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    @property
    def name(self) -> str:
        return f"failing with {self._error}"

    def emit(self, _receipt: Receipt, /) -> None:
        raise self._error

    def flush(self) -> None:
        raise self._error

    def close(self) -> None:
        raise self._error


def test_failure_is_reported_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    good, also_good = MemorySink(), MemorySink()
    bad, worse = FailingSink(OSError("disk full")), FailingSink(ZeroDivisionError("oh"))
    stream = ReceiptStream([good, bad, also_good, worse])
    for receipt in RECEIPTS:
        stream.put(receipt)
        stream.deliver()
    stream.flush()
    stream.close()
    assert list(good.receipts) == list(also_good.receipts) == RECEIPTS
    assert good.closed
    assert also_good.closed
    assert stream.failures == {"memory": 0, bad.name: 22, worse.name: 22}
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.name for record in errors] == ["kvpool.receipts._stream"] * 2
    assert "the sink failing with disk full failed" in errors[0].getMessage()
    assert errors[0].exc_info
    assert isinstance(errors[0].exc_info[1], OSError)


def test_sink_that_recovers_goes_on_receiving() -> None:
    troubles = [OSError("a"), OSError("b")]

    def call() -> None:
        if troubles:
            raise troubles.pop()

    sink = CallingSink(call)
    stream = ReceiptStream([sink])
    for receipt in RECEIPTS:
        stream.put(receipt)
    stream.deliver()
    assert list(sink.receipts) == RECEIPTS[2:]
    assert stream.failures == {"calling": 2}
