"""Raise an exception inside kvpool, at the n-th instruction at which the interpreter could.

A signal handler, such as that of Ctrl-C, runs when an instruction that checks for signals has
ended: a call, a jump back, the start of a function. Memory can run out in a call or where a
container is built. So those are the places, and no others: an exception between the end of a
``with`` block and the release of its lock, for example, is one that cannot happen.
"""

from __future__ import annotations

import contextlib
import dis
import inspect
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Literal, Self

import kvpool

__all__ = ["Injection", "Kind", "error_of", "every_place", "handlers_of", "injected"]

Kind = Literal["interrupt", "memory"]

_CHECKS = {
    "CALL",
    "CALL_FUNCTION_EX",
    "CALL_KW",
    "JUMP_BACKWARD",
    "RESUME",
}
_ALLOCATES = {
    "BINARY_OP",
    "BUILD_LIST",
    "BUILD_MAP",
    "BUILD_TUPLE",
    "CALL",
    "CALL_FUNCTION_EX",
    "CALL_KW",
    "STORE_SUBSCR",
}
_PACKAGE = (
    str(Path(kvpool.__file__).parent) + os.sep
)  # not the tests, whatever the checkout is called
_BACKENDS = f"{os.sep}kvpool_"
_LIMIT = 10_000  # places; more than any call has
_VISITS = 2  # of an instruction, by the call that led to it: later rounds of a loop are the same


class Injection:
    """A context in which the `at`-th place inside kvpool raises.

    Parameters
    ----------
    at : int
        Which place, counted from 1. A place counts twice for each line of code that calls its
        function: further rounds of a loop come to the same.
    kind : {"interrupt", "memory"}
        KeyboardInterrupt, or MemoryError.
    act : callable, optional
        Is called there, as a signal handler would be, and nothing is raised.
    in_libraries : bool, default: False
        Whether places in other modules count as well, such as those of the standard library.

    Attributes
    ----------
    kind : {"interrupt", "memory"}
    where : str or None
        File, line and function of the place once it was reached.
    """

    def __init__(
        self,
        at: int,
        kind: Kind,
        act: Callable[[], object] | None = None,
        *,
        in_libraries: bool = False,
    ) -> None:
        self._act = act
        self._in_libraries = in_libraries
        self.where: str | None = None
        self._left = at
        self.kind: Kind = kind
        self._before: Any = None
        self._visits: Counter[tuple[int, int, int, int]] = Counter()

    def __enter__(self) -> Self:
        self._before = sys.gettrace()  # such as the one that measures coverage
        # Python 3.12 traces instructions only if any frame wanted that before `settrace`.
        if frame := inspect.currentframe():
            frame.f_trace_opcodes = True
        sys.settrace(self._enter_frame)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _enter_frame(self, frame: FrameType, event: str, arg: object) -> Any:
        del event, arg
        code = frame.f_code
        file = code.co_filename
        is_own = file.startswith(_PACKAGE) or _BACKENDS in file
        if not is_own and (not self._in_libraries or file == __file__):
            return None
        call = _call_of(frame)
        entered = (*call, -1)
        self._visits[entered] += 1
        if self._visits[entered] > _VISITS:  # such as a comprehension in a loop
            return None
        places = _places(code, self.kind)
        if not places:
            return None

        # Is called for each instruction: what is the same in the whole frame is looked up before.
        def step(frame: FrameType, event: str, arg: object) -> Any:
            del arg
            if event == "opcode" and frame.f_lasti in places:
                self._reach(frame, (*call, frame.f_lasti))
            return step

        frame.f_trace = step  # first: without it, Python 3.13 forgets what comes next
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return step

    def _reach(self, frame: FrameType, place: tuple[int, int, int, int]) -> None:
        """Count a place, and raise if it is the one."""
        self._visits[place] += 1
        if self._visits[place] <= _VISITS:
            self._left -= 1
        if not self._left:
            code = frame.f_code
            self.where = f"{code.co_filename}:{frame.f_lineno} in {code.co_qualname}"
            sys.settrace(None)
            if self._act is None:
                raise error_of(self.kind)
            self._act()


def every_place(kind: Kind, *, in_libraries: bool = False) -> Iterator[Injection]:
    """Yield injections, each one place further, until there is no such place."""
    for at in range(1, _LIMIT):
        injection = Injection(at, kind, in_libraries=in_libraries)
        yield injection
        if injection.where is None:
            return
    raise AssertionError(f"a call has {_LIMIT} places, or it does not end")


def injected(call: Callable[[], object], injection: Injection) -> None:
    """Make a call that the injection may end."""
    with contextlib.suppress(type(error_of(injection.kind))), injection:
        call()


def error_of(kind: Kind) -> BaseException:
    """Return the exception that an injection of this kind raises."""
    return KeyboardInterrupt() if kind == "interrupt" else MemoryError("injected")


def _call_of(frame: FrameType) -> tuple[int, int, int]:
    """Return what tells the code of a frame, called by one instruction, from other calls of it."""
    caller = frame.f_back
    if caller is None:
        return 0, 0, id(frame.f_code)
    return id(caller.f_code), caller.f_lasti, id(frame.f_code)


# By the identity of the code, which is kept with it: the hash of a code is that of all its parts.
_known_places: dict[tuple[int, Kind], tuple[CodeType, frozenset[int]]] = {}


def _places(code: CodeType, kind: Kind) -> frozenset[int]:
    """Return the offsets of the instructions before which an exception may be raised."""
    known = _known_places.get((id(code), kind))
    if known is None:
        instructions = [one for one in dis.get_instructions(code) if one.opname != "CACHE"]
        is_interrupt = kind == "interrupt"
        found = (
            _after_checks(code, instructions) if is_interrupt else _before_allocations(instructions)
        )
        known = _known_places[id(code), kind] = code, frozenset(found)
    return known[1]


def _after_checks(code: CodeType, instructions: list[dis.Instruction]) -> Iterator[int]:
    """Yield what follows a check under the same handler: there the exception is the same.

    A jump back checks before it jumps, so there it is the jump itself.
    """
    handlers = handlers_of(code)
    for before, after in pairwise(instructions):
        if before.opname == "JUMP_BACKWARD":
            yield before.offset
        elif before.opname in _CHECKS and handlers(before.offset) == handlers(after.offset):
            yield after.offset


def _before_allocations(instructions: list[dis.Instruction]) -> Iterator[int]:
    for index, one in enumerate(instructions):
        if one.opname in _ALLOCATES and not _leaves_with(instructions[:index]):
            yield one.offset


def _leaves_with(before: list[dis.Instruction]) -> bool:
    """Tell whether a call is the one of ``__exit__`` at the end of a ``with`` block."""
    loads = [one for one in before[-4:] if one.opname == "LOAD_CONST" and one.argval is None]
    return len(loads) == 3


def handlers_of(code: CodeType) -> Callable[[int], int | None]:
    """Return a function from an offset to the handler of the exceptions raised there."""
    bytecode: Any = dis.Bytecode(code)
    table = bytecode.exception_entries

    def handler(offset: int) -> int | None:
        found = [entry.target for entry in table if entry.start <= offset < entry.end]
        return found[-1] if found else None

    return handler
