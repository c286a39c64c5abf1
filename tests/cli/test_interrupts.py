from __future__ import annotations

import signal
import threading

import pytest

from kvpool.cli._interrupts import Interrupts


def press_ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def test_a_step_is_done_as_a_whole() -> None:
    done = []

    def work(interrupts: Interrupts) -> None:
        with interrupts.step():
            press_ctrl_c()
            done.append("the rest of the step")
        done.append("the next step")

    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt):
        work(interrupts)
    assert done == ["the rest of the step"]


def test_between_steps_it_comes_at_once() -> None:
    with Interrupts() as interrupts:
        with interrupts.step():
            pass
        with pytest.raises(KeyboardInterrupt):
            press_ctrl_c()


def test_the_second_does_not_wait() -> None:
    done = []

    def work(interrupts: Interrupts) -> None:
        with interrupts.step():
            press_ctrl_c()
            done.append("after the first")
            press_ctrl_c()
            done.append("after the second")

    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt):
        work(interrupts)
    assert done == ["after the first"]


def test_an_error_in_a_step_is_the_error() -> None:
    def work(interrupts: Interrupts) -> None:
        with interrupts.step():
            press_ctrl_c()
            raise RuntimeError("of the step")

    with Interrupts() as interrupts, pytest.raises(RuntimeError, match="of the step"):
        work(interrupts)


def test_afterwards_everything_is_as_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupts():
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before


def test_in_another_thread_it_does_nothing() -> None:
    def work() -> None:
        with Interrupts() as interrupts, interrupts.step():
            done.append(signal.getsignal(signal.SIGINT))

    done: list[object] = []
    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [before]


def pressed_in_a_step(interrupts: Interrupts) -> bool:
    with interrupts.step():
        press_ctrl_c()
        press_ctrl_c()
    return interrupts.pressed


def test_it_may_only_be_noted() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupts(raises=False) as interrupts:
        assert not interrupts.pressed
        assert pressed_in_a_step(interrupts)
    assert signal.getsignal(signal.SIGINT) is before
