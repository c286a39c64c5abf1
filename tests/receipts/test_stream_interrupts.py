"""Sinks that are interrupted, have no memory, raise anything, call the manager, or block."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from kvpool.cache_key import CacheKey
from kvpool.errors import PoolExhaustedError
from kvpool.manager import KVCacheManager
from kvpool.receipts import MemorySink, Receipt


class CallingSink(MemorySink):
    """Calls something before it keeps a receipt."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__()
        self.call = call

    def emit(self, receipt: Receipt, /) -> None:
        self.call()
        super().emit(receipt)


class OddError(BaseException):
    """Not an Exception."""


def raising(*errors: BaseException) -> Callable[[], None]:
    """Return a function that raises the errors, one at each call, and then nothing more."""
    left = list(errors)

    def call() -> None:
        if left:
            raise left.pop(0)

    return call


def evict(manager: KVCacheManager, number: int) -> None:
    key = CacheKey("chat", number)
    if key not in manager:
        manager.allocate_entry(key, 4096)
    manager.remove_cache_entry(key)


def sequences(sink: MemorySink) -> list[int]:
    return [receipt.sequence for receipt in sink.receipts]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, OddError])
def test_interrupted_receipt_comes_again(error: type[BaseException]) -> None:
    first, last = MemorySink(), MemorySink()
    sink = CallingSink(raising(error(), error()))
    manager = KVCacheManager(1 << 20, "numpy", receipts=[first, sink, last])
    with pytest.raises(error):
        evict(manager, 0)
    with pytest.raises(error):
        manager.get_stats()
    manager.check_integrity()
    evict(manager, 1)
    manager.close()
    assert sequences(first) == sequences(sink) == sequences(last) == [0, 1, 2]
    assert first.closed
    assert last.closed
    assert manager.receipts is not None
    assert manager.receipts.stream.failures == {"memory": 0}


def test_receipt_that_found_no_memory_comes_again() -> None:
    sink, last = CallingSink(raising(MemoryError())), MemorySink()
    with KVCacheManager(1 << 20, "numpy", receipts=[sink, last]) as manager:
        evict(manager, 0)
        assert sequences(sink) == sequences(last) == []
        evict(manager, 1)
        assert sequences(sink) == sequences(last) == [0, 1]


def test_full_pool_in_a_sink_is_a_failure_and_no_lack_of_memory() -> None:
    sink = CallingSink(raising(PoolExhaustedError(1, 0, 0)))
    with KVCacheManager(1 << 20, "numpy", receipts=sink) as manager:
        evict(manager, 0)
        evict(manager, 1)
        assert sequences(sink) == [1]
        assert manager.receipts is not None
        assert manager.receipts.stream.failures == {"memory": 1}


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_sink_that_never_works_is_given_up(error: type[BaseException]) -> None:
    def call() -> None:
        raise error

    sink, last = CallingSink(call), MemorySink()
    manager = KVCacheManager(1 << 20, "numpy", receipts=[sink, last])
    for number in range(20):
        try:
            evict(manager, number)
        except KeyboardInterrupt:
            continue
    for _ in range(20):
        try:
            manager.close()
        except KeyboardInterrupt:
            continue
        break
    assert sequences(sink) == []
    assert sequences(last) == list(range(len(last.receipts)))
    assert last.receipts[-1].event == "kv_pool_snapshot"
    assert sink.closed
    assert last.closed


def test_interrupted_close_is_finished_by_the_next() -> None:
    closings: list[BaseException] = [KeyboardInterrupt(), SystemExit()]

    class Closing(MemorySink):
        def close(self) -> None:
            if closings:
                raise closings.pop(0)
            super().close()

    first, sink, last = MemorySink(), Closing(), MemorySink()
    manager = KVCacheManager(1 << 20, "numpy", receipts=[first, sink, last])
    evict(manager, 0)
    for error in (KeyboardInterrupt, SystemExit):
        with pytest.raises(error):
            manager.close()
        assert not last.closed
    manager.close()
    manager.close()
    assert sink.closed
    assert last.closed
    assert sequences(last) == [0, 1]


def test_sink_may_close_the_manager() -> None:
    def close() -> None:
        manager.close()

    sink = CallingSink(close)
    manager = KVCacheManager(1 << 20, "numpy", receipts=sink)
    evict(manager, 0)
    assert sequences(sink) == [0, 1]  # the second one is of the closing
    assert sink.closed


def test_sink_may_use_the_manager() -> None:
    def use() -> None:
        if len(sink.receipts) < 5:
            evict(manager, 100 + len(sink.receipts))

    sink = CallingSink(use)
    with KVCacheManager(1 << 20, "numpy", receipts=sink) as manager:
        evict(manager, 0)
        assert sequences(sink) == [0, 1, 2, 3, 4, 5]


def test_sink_may_wait_for_another_thread_that_uses_the_manager() -> None:
    def use() -> None:
        thread = threading.Thread(target=evict, args=(manager, 100 + len(sink.receipts)))
        if len(sink.receipts) < 5:
            thread.start()
            thread.join(60)
            assert not thread.is_alive()

    sink = CallingSink(use)
    with KVCacheManager(1 << 20, "numpy", receipts=sink) as manager:
        evict(manager, 0)
        assert sequences(sink) == [0, 1, 2, 3, 4, 5]


def test_sink_that_blocks_holds_up_one_thread() -> None:
    entered, release = threading.Event(), threading.Event()

    def wait() -> None:
        entered.set()
        assert release.wait(60)

    sink = CallingSink(wait)
    manager = KVCacheManager(1 << 20, "numpy", receipts=sink)
    blocked = threading.Thread(target=evict, args=(manager, 0))
    blocked.start()
    assert entered.wait(60)
    for number in range(1, 10):
        evict(manager, number)
    manager.check_integrity()
    assert sequences(sink) == []
    release.set()
    blocked.join(60)
    manager.close()
    assert sequences(sink) == list(range(11))
