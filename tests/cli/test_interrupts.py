from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from kvpool.cli._interrupts import EXIT_CODE, Interrupts
from tests.support.terminal import unmeasured

# Presses Ctrl-C when a module is looked for, and starts the command as its script and as `-m` do.
START = """
import runpy, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == wanted:
            sys.meta_path.remove(self)
            signal.raise_signal(signal.SIGINT)

_, form, wanted, *sys.argv[1:] = sys.argv
sys.meta_path.insert(0, Finder())
if form == "script":
    from kvpool.cli import main
    main()
else:
    runpy.run_module("kvpool", run_name="__main__", alter_sys=True)
"""


def python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=unmeasured(),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("form", ["script", "module"])
@pytest.mark.parametrize(
    "module", ["kvpool.cli._app", "numpy", "numpy.linalg", "typer", "kvpool.manager", "kvpool_mmap"]
)
def test_an_import_ends_without_a_traceback(form: str, module: str) -> None:
    done = python(START, form, module, "backends")
    assert (done.returncode, done.stdout, done.stderr) == (EXIT_CODE, "", "")


def test_nothing_slow_is_imported_before_ctrl_c_is_expected() -> None:
    """What is imported before `main` runs is what Ctrl-C may still show a traceback of."""
    names = "print(*{*sys.modules} - before)"
    done = python(f"import sys; before = {{*sys.modules}}; import kvpool.cli; {names}")
    loaded = set(done.stdout.split())
    ours = {"kvpool", "kvpool.__about__", "kvpool._first_use", "kvpool.cli", "kvpool.cli._main"}
    assert ours <= loaded
    assert {one.partition(".")[0] for one in loaded - ours} <= sys.stdlib_module_names
    assert not loaded & {"asyncio", "inspect", "logging", "typing"}


def test_the_end_of_the_interpreter_shows_no_traceback() -> None:
    press = "import atexit, signal, sys; atexit.register(signal.raise_signal, signal.SIGINT); "
    done = python(press + "sys.argv[1:] = ['--version']; from kvpool.cli import main; main()")
    assert (done.returncode, done.stderr) == (EXIT_CODE, "")


def test_a_command_that_is_to_ignore_it_does() -> None:
    """A shell without job control starts a command in the background this way."""
    ignore = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
    done = python(f"{ignore}\n{START}", "script", "numpy", "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("kvpool ")


@pytest.mark.parametrize("before", ["SIG_DFL", "SIG_IGN"])
def test_sigterm_ends_a_command_as_ctrl_c_does(before: str) -> None:
    """What is entered is left. A command that is to ignore the signal does."""
    program = f"""
import contextlib, signal, kvpool.cli._app

@contextlib.contextmanager
def resource():
    try:
        yield
    finally:
        print("left")

def run():
    with resource():
        signal.raise_signal(signal.SIGTERM)
        print("ignored")

signal.signal(signal.SIGTERM, signal.{before})
kvpool.cli._app.run = run
kvpool.cli.main()
"""
    done = python(program)
    expected = (143, "left\n") if before == "SIG_DFL" else (0, "ignored\nleft\n")
    assert (done.returncode, done.stdout, done.stderr) == (*expected, "")


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
