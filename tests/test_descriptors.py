"""A descriptor has one owner from the system call on, and is closed with it."""

from __future__ import annotations

import itertools
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import get_args

import pytest

from kvpool.descriptors import Descriptor
from kvpool.errors import NotCopyableError
from tests.support.injection import Injection, Kind, every_place, injected


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "file"
    file.touch()
    return file


def is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def test_it_is_closed_with_the_last_reference(path: Path) -> None:
    opened = Descriptor(os.open, path, os.O_RDONLY)
    number, again = opened.number, opened
    del opened
    assert is_open(number)
    del again
    assert not is_open(number)


def test_it_is_closed_once(path: Path) -> None:
    with Descriptor(os.open, path, os.O_RDONLY) as opened:
        assert is_open(opened.number)
    assert not is_open(opened.number)
    other = os.open(path, os.O_RDONLY)
    assert other == opened.number  # the system gives the lowest number that is free
    opened.close()
    del opened
    assert is_open(other)
    os.close(other)


def test_a_signal_handler_may_close_it_as_well(path: Path) -> None:
    for at in itertools.count(1):
        opened = Descriptor(os.open, path, os.O_RDONLY)
        with Injection(at, "interrupt", opened.close, in_libraries=True) as injection:
            opened.close()
        assert not is_open(opened.number), injection.where
        if injection.where is None:
            return


def test_threads_may_close_it_at_once(path: Path) -> None:
    errors: list[BaseException] = []

    def close(opened: Descriptor, together: threading.Barrier) -> None:
        together.wait()
        try:
            opened.close()
        except BaseException as error:
            errors.append(error)

    for _ in range(200):
        arguments = Descriptor(os.open, path, os.O_RDONLY), threading.Barrier(4)
        threads = [threading.Thread(target=close, args=arguments) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not is_open(arguments[0].number)
    assert errors == []


def test_an_error_is_that_of_the_system(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        Descriptor(os.open, path.with_name("missing"), os.O_RDONLY)


def test_a_negative_number_is_not_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", errors.append)
    opened = Descriptor(int, "-1")
    assert opened.number == -1
    opened.close()
    del opened
    assert errors == []


def test_it_cannot_be_copied(path: Path) -> None:
    with Descriptor(os.open, path, os.O_RDONLY) as opened, pytest.raises(NotCopyableError):
        pickle.dumps(opened)


@pytest.mark.parametrize("kind", get_args(Kind))
def test_no_interrupt_leaves_it_open(
    path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", id)  # the end of an object may be interrupted
    free = os.open(path, os.O_RDONLY)
    os.close(free)
    made: list[Descriptor] = []

    def make() -> None:
        made.append(Descriptor(os.open, path, os.O_RDONLY))

    places = 0
    for injection in every_place(kind, in_libraries=True):
        injected(make, injection)
        assert [one.number for one in made] == [free] * len(made)
        made.clear()
        assert not is_open(free), injection.where
        places += injection.where is not None
    assert places > 1
    for injection in every_place("interrupt", in_libraries=True):
        make()
        injected(made.clear, injection)
        assert not is_open(free), injection.where


def test_one_that_lives_to_the_end_of_the_interpreter_is_closed_without_a_message(
    tmp_path: Path,
) -> None:
    """Modules are emptied in turn at the end; `early` is emptied after `kvpool.descriptors`."""
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys, types\n"
        "early = sys.modules['early'] = types.ModuleType('early')\n"
        "from kvpool import descriptors\n"
        "early.kept = descriptors.Descriptor(os.open, os.devnull, os.O_RDONLY)\n"
        "sys.alive = [early, descriptors]\n"
    )
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
