"""Readers of one answer, who may be interrupted at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections.abc import Callable

import pytest

from kvpool.serving import TokenPiece, Usage
from kvpool.serving._generation import Stream
from tests.support.injection import every_place

LAST = TokenPiece("a", (1,), "length")


def wait(stream: Stream) -> None:
    assert stream.wait(math.inf, 60)


def wait_in_loop(stream: Stream) -> None:
    asyncio.run(stream.wait_in_loop(math.inf))


@pytest.mark.parametrize(("read", "in_libraries"), [(wait, True), (wait_in_loop, False)])
def test_a_reader_that_is_interrupted_holds_up_neither_the_engine_nor_others(
    read: Callable[[Stream], None], in_libraries: bool
) -> None:
    for injection in every_place("interrupt", in_libraries=in_libraries):
        stream = Stream(Usage(1))
        # The reader has begun to wait by then, or was interrupted before.
        engine = threading.Timer(0.005, stream.put, [LAST])
        engine.daemon = True
        engine.start()
        with contextlib.suppress(KeyboardInterrupt), injection:
            read(stream)
        engine.join(60)
        assert not engine.is_alive(), f"a piece is never put after {injection.where}"
        assert stream.wait(math.inf, 60)


def test_a_reader_whose_time_is_up_is_woken_no_more() -> None:
    stream = Stream(Usage(1))
    assert not stream.wait(0, 0.01)
    stream.put(TokenPiece("a", (1,)))
    assert stream.wait(0, 0)
    assert not stream.wait(1, 0.01)
    engine = threading.Timer(0.01, stream.put, [LAST])
    engine.start()
    assert stream.wait(1, math.inf)  # longer than a system can wait
    engine.join(60)


def test_each_piece_wakes_all_readers() -> None:
    stream = Stream(Usage(1))
    read = threading.Semaphore(0)

    def follow() -> None:
        for number in range(3):
            assert stream.wait(number, 60)
            read.release()

    async def follow_in_loop() -> None:
        for number in range(3):
            await stream.wait_in_loop(number)
            read.release()

    threads = [
        threading.Thread(target=follow),
        threading.Thread(target=asyncio.run, args=[follow_in_loop()]),
    ]
    for thread in threads:
        thread.start()
    for piece in (TokenPiece("a"), TokenPiece("b"), LAST):
        stream.put(piece)
        for _ in threads:
            assert read.acquire(timeout=60)
    for thread in threads:
        thread.join(60)
