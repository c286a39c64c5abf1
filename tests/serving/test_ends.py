"""A generation may end at any moment, and so may an engine."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kvpool.errors import ForkedProcessError
from kvpool.manager import KVCacheManager
from kvpool.serving import Engine, EngineClosedError, Generation, Request, TokenPiece
from kvpool.serving._loop import Loop
from tests.support.sessions import Clock

pytestmark = pytest.mark.transformers

MakeEngine = Callable[..., Engine]


def test_a_stop_text_ends_wherever_tokens_begin(lab: Any, make_engine: MakeEngine) -> None:
    engine = make_engine()
    ids = lab.tokens("a pool")
    whole = lab.text_of(lab.alone(ids, 12))
    assert len(set(whole)) > 5
    for start, end in ((3, 9), (5, 7), (8, 20)):
        stop = whole[start:end]
        generation = engine.submit(Request(tokens=ids, max_tokens=12, stop=["never", stop]))
        pieces = list(generation)
        done = generation.result()
        assert done.finish_reason == "stop"
        assert done.text == whole[: whole.index(stop)]
        assert "".join(piece.text for piece in pieces) == done.text
        assert done.usage.completion_tokens == len(done.token_ids) < 12


def test_what_was_held_back_for_a_stop_text_is_shown_at_the_end(
    lab: Any, make_engine: MakeEngine
) -> None:
    ids = lab.tokens("a pool")
    whole = lab.text_of(lab.alone(ids, 6))
    request = Request(tokens=ids, max_tokens=6, stop=[whole[-4:] + "!", whole + "!"])
    pieces = list(make_engine().submit(request))
    assert [piece.text for piece in pieces] == [whole]
    assert pieces[0].finish_reason == "length"


# -- cancellation ------------------------------------------------------------------------


def test_cancelling_while_the_prompt_is_read(
    lab: Any, make_engine: MakeEngine, manager: KVCacheManager, gate: Any
) -> None:
    engine = make_engine(prefill_tokens=10)
    gate.shut()
    generation = engine.submit(Request(tokens=list(range(2, 52)), max_tokens=5))
    gate.wait()
    gate.let()
    gate.wait()
    generation.cancel()
    gate.open()
    done = generation.result(60)
    assert (done.finish_reason, done.text, done.token_ids) == ("cancelled", "", ())
    assert len(gate.steps) == 2
    # What was computed is kept for others.
    again = engine.submit(Request(tokens=list(range(2, 52)), max_tokens=2)).result(60)
    assert again.usage.cached_tokens == 20
    assert again.token_ids == lab.alone(range(2, 52), 2)
    assert manager.get_stats().prefix.tokens_reused == 20


def test_cancelling_an_answer(lab: Any, make_engine: MakeEngine, gate: Any) -> None:
    engine = make_engine()
    gate.shut()
    generation = engine.submit(Request(tokens=[2, 3, 4], max_tokens=50))
    gate.let(3)
    gate.wait(4)
    generation.cancel()
    generation.cancel()
    gate.open()
    done = generation.result(60)
    assert done.finish_reason == "cancelled"
    assert done.token_ids == lab.alone([2, 3, 4], 4)  # a step that began is finished
    generation.cancel()
    assert generation.result(0) == done


def test_cancelling_a_request_that_waits(make_engine: MakeEngine, gate: Any) -> None:
    engine = make_engine(max_sessions=1)
    gate.shut()
    running = engine.submit(Request(tokens=[2], max_tokens=1))
    gate.wait()
    with engine.submit(Request(tokens=[3], max_tokens=1)) as waiting:
        assert engine.stats().queued == 1
    gate.open()
    assert waiting.result(60).finish_reason == "cancelled"
    assert running.result(60).finish_reason == "length"
    assert len(gate.steps) == 1


def test_a_reader_that_goes_away_cancels(make_engine: MakeEngine) -> None:
    engine = make_engine()

    async def read() -> TokenPiece:
        async with engine.submit(Request(tokens=[2, 3], max_tokens=3000)) as generation:
            async for piece in generation:
                return piece
        raise AssertionError("no piece")

    async def main() -> None:
        assert (await read()).token_ids
        lost = engine.submit(Request(tokens=[4, 5], max_tokens=3000))
        reader = asyncio.create_task(read_all(lost))
        await asyncio.sleep(0.05)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader

    async def read_all(generation: Generation) -> None:
        async with generation:
            async for _piece in generation:
                pass

    asyncio.run(main())
    while engine.stats().running:
        time.sleep(0.01)
    assert engine.stats().finished["cancelled"] == 2


def test_a_loop_that_is_closed_stops_nothing(lab: Any, make_engine: MakeEngine, gate: Any) -> None:
    engine = make_engine()
    gate.shut()
    generation = engine.submit(Request(tokens=[2, 3], max_tokens=4))
    gate.wait()

    async def give_up() -> None:
        reading = asyncio.ensure_future(generation.aresult())
        await asyncio.sleep(0.01)
        reading.cancel()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(give_up())
    pending = loop.create_task(generation.aresult())
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    gate.open()
    assert generation.result(60).token_ids == lab.alone([2, 3], 4)
    del pending


# -- deadlines ---------------------------------------------------------------------------


def test_a_deadline_ends_with_what_there_is(
    lab: Any, make_engine: MakeEngine, gate: Any, engine_clock: Clock
) -> None:
    engine = make_engine(max_sessions=1)
    gate.shut()
    generation = engine.submit(Request(tokens=[2, 3], max_tokens=50, deadline=0.2))
    waiting = engine.submit(Request(tokens=[4], max_tokens=1, deadline=0.1))
    gate.let(2)
    gate.wait(3)
    engine_clock.now += 0.25
    gate.open()
    done = generation.result(60)
    assert (done.finish_reason, done.token_ids) == ("deadline", lab.alone([2, 3], 3))
    assert waiting.result(60).finish_reason == "deadline"
    assert waiting.usage.completion_tokens == 0


def test_a_result_may_not_be_there_in_time(make_engine: MakeEngine, gate: Any) -> None:
    engine = make_engine()
    gate.shut()
    generation = engine.submit(Request(tokens=[2], max_tokens=2))
    with pytest.raises(TimeoutError, match=r"not finished after 0.01 s"):
        generation.result(0.01)
    gate.open()
    assert generation.result(60).finish_reason == "length"


# -- the end of an engine ----------------------------------------------------------------


def test_a_drain_may_take_only_some_time(
    lab: Any, make_engine: MakeEngine, gate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing wakes the engine twice: when it begins, and when the time is up."""
    engine = make_engine(max_sessions=1)
    gate.shut()
    running = engine.submit(Request(tokens=[2, 3], max_tokens=3))
    waiting = engine.submit(Request(tokens=[4], max_tokens=1))
    gate.wait()
    woken, wake = threading.Semaphore(0), Loop.wake

    def wake_and_tell(loop: Loop) -> None:
        wake(loop)
        woken.release()

    monkeypatch.setattr(Loop, "wake", wake_and_tell)
    closing = threading.Thread(target=engine.close, args=(0.1,))
    closing.start()
    assert woken.acquire(timeout=60)
    with pytest.raises(EngineClosedError):
        engine.submit(Request(tokens=[4]))
    assert woken.acquire(timeout=60)
    gate.open()
    closing.join(60)
    assert running.result(0).finish_reason == "cancelled"
    assert running.result(0).token_ids == lab.alone([2, 3], 1)
    assert waiting.result(0).finish_reason == "cancelled"


def test_a_drain_serves_what_was_accepted(make_engine: MakeEngine) -> None:
    engine = make_engine(max_sessions=1)
    generations = [engine.submit(Request(tokens=[n], max_tokens=3)) for n in (2, 3, 4)]
    engine.close()
    assert [one.result(0).finish_reason for one in generations] == ["length"] * 3


def test_an_error_in_the_block_of_an_engine_cancels(lab: Any, manager: KVCacheManager) -> None:
    engine = lab.make_engine(manager)
    generation = engine.submit(Request(tokens=[2], max_tokens=4000))
    with pytest.raises(ZeroDivisionError), engine:
        generation.result(1 / 0)
    assert generation.result(0).finish_reason == "cancelled"


def test_an_engine_that_is_forgotten_stops(lab: Any, manager: KVCacheManager) -> None:
    before = threading.active_count()
    generation = lab.make_engine(manager).submit(Request(tokens=[2], max_tokens=3))
    gc.collect()
    assert generation.result(60).finish_reason == "length"  # a generation keeps its engine
    engine = lab.make_engine(manager)
    gone = weakref.ref(engine)
    del engine, generation
    gc.collect()
    assert gone() is None
    while threading.active_count() > before:
        time.sleep(0.01)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Have SIGINT raise, also in a process that a shell started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted(call: Callable[[], object]) -> None:
    """Make a call that waits, and have Ctrl-C come in the middle of it."""
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    call()


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_leaves_the_generation(lab: Any, make_engine: MakeEngine, gate: Any) -> None:
    engine = make_engine()
    gate.shut()
    generation = engine.submit(Request(tokens=[2, 3], max_tokens=3))
    gate.wait()
    with pytest.raises(KeyboardInterrupt):
        interrupted(lambda: generation.result(60))
    with pytest.raises(KeyboardInterrupt):
        interrupted(engine.close)
    assert engine.is_closed
    gate.open()
    assert generation.result(60).token_ids == lab.alone([2, 3], 3)
    engine.close()


PROGRAM = """
    import torch
    from kvpool import KVCacheManager
    from kvpool.serving import Request
    from tests.support import engines

    engine = engines.make_engine(KVCacheManager(1 << 24, "numpy", receipts=False))
    generation = engine.submit(Request(tokens=[2, 3], max_tokens=4000))
    print(next(iter(generation)).text != "", flush=True)
"""


WITHOUT_A_THREAD = """
    import threading
    from kvpool import KVCacheManager
    from tests.support import engines

    engines.tiny()
    manager = KVCacheManager(1 << 24, "numpy", receipts=False)
    threading.stack_size(1 << 46)
    try:
        engines.make_engine(manager)
    except RuntimeError as error:
        print(error)
"""


@pytest.mark.usefixtures("lab")
@pytest.mark.parametrize(
    ("program", "said"),
    [
        (PROGRAM, "True\n"),
        pytest.param(
            WITHOUT_A_THREAD,
            "can't start new thread\n",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="limits differ elsewhere"),
        ),
    ],
    ids=["while it computes", "without a thread for it"],
)
def test_a_program_ends_with_an_engine(program: str, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")


def test_a_close_may_wait_for_any_time(make_engine: MakeEngine) -> None:
    engine = make_engine()
    generation = engine.submit(Request(tokens=[2], max_tokens=3))
    engine.close(math.inf)
    assert generation.result(0).finish_reason == "length"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_is_refused(make_engine: MakeEngine, gate: Any) -> None:
    engine = make_engine()
    gate.shut()
    generation = engine.submit(Request(tokens=[2, 3], max_tokens=3))
    gate.wait()
    calls: list[Callable[[], object]] = [
        lambda: engine.submit(Request(tokens=[2])),
        lambda: generation.result(5),
        engine.stats,
    ]
    child = os.fork()
    if not child:
        signal.alarm(60)
        refused = 0
        for call in calls:
            try:
                call()
            except ForkedProcessError:
                refused += 1
        engine.close()
        os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == len(calls)
    gate.open()
    assert generation.result(60).finish_reason == "length"
