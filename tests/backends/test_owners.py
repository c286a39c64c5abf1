"""Arenas and forks that are interrupted while they are made, or while they end, leave nothing.

The interrupt comes at each place at which the interpreter could raise one, also inside of the
modules that kvpool uses.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import get_args

import pytest

from kvpool.arena import Arena
from kvpool.backends import registry
from tests.support.injection import Kind, every_place, injected

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

SIZE = 1 << 30  # bytes; far more than anything else may take meanwhile
Make = Callable[[], object]


def held() -> tuple[int, int]:
    """Return how many descriptors are open, and how many bytes are mapped."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return len(list(Path("/proc/self/fd").iterdir())), pages * mmap.PAGESIZE


def more_than(before: tuple[int, int]) -> tuple[int, int]:
    """Return how many descriptors, and how many times `SIZE` bytes, there are more than before."""
    descriptors, mapped = held()
    return descriptors - before[0], round((mapped - before[1]) / SIZE)


@pytest.fixture(params=["mmap", "mmap in a file", "ctypes"])
def make_arena(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Arena]:
    backend = registry.choose(request.param.split()[0])
    if request.param != "mmap in a file":
        return partial(backend.create, SIZE)

    def in_a_file() -> Arena:
        path = tmp_path / "arena"
        path.unlink(missing_ok=True)
        return backend.create(SIZE, path=path)

    return in_a_file


@pytest.fixture
def make_buffer(make_arena: Callable[[], Arena]) -> Iterator[Make]:
    """Return a function that makes a fork, of which only the buffer stays."""
    whole = make_arena()
    yield lambda: whole.fork(0, SIZE).buffer
    whole.close()


@pytest.fixture(autouse=True)
def ends_may_be_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the end of an object be interrupted: Python prints that, and goes on."""
    monkeypatch.setattr(sys, "unraisablehook", id)


def make_into(made: list[object], make: Make) -> None:
    made.append(make())


def check_making(make: Make, kind: Kind) -> None:
    """Interrupt a function everywhere; what it made, if anything, is dropped."""
    make()  # what is kept from a first call, such as caches
    before = held()
    places = 0
    for injection in every_place(kind, in_libraries=True):
        made: list[object] = []
        injected(partial(make_into, made, make), injection)
        made.clear()
        assert more_than(before) == (0, 0), injection.where
        places += injection.where is not None
    assert places > 10


def check_ending(make: Make, kind: Kind) -> None:
    """Drop what a function makes, and interrupt that everywhere."""
    before = held()
    for injection in every_place(kind, in_libraries=True):
        made = [make()]
        injected(made.clear, injection)
        assert more_than(before) == (0, 0), injection.where


@pytest.mark.parametrize("kind", get_args(Kind))
def test_making_an_arena(make_arena: Make, kind: Kind) -> None:
    check_making(make_arena, kind)


@pytest.mark.parametrize("kind", get_args(Kind))
def test_making_a_fork(make_buffer: Make, kind: Kind) -> None:
    check_making(make_buffer, kind)


def test_end_of_an_arena(make_arena: Make) -> None:
    check_ending(make_arena, "interrupt")


def test_end_of_a_fork(make_buffer: Make) -> None:
    check_ending(make_buffer, "interrupt")


def test_what_is_held_is_seen(make_arena: Make, make_buffer: Make) -> None:
    """A mapping that stays is counted, and one more as well."""
    before = held()
    made: list[object] = []
    for number, make in enumerate((make_buffer, make_buffer, make_arena), 1):
        made.append(make())
        assert more_than(before)[1] == number
