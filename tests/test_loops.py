"""Loops that Ctrl-C can end without the ``with`` and ``try`` around them being left in order.

CPython 3.13 raises KeyboardInterrupt where a loop jumps back. If the jump is the branch of a
condition, such as that of ``while``, the compiler leaves it out of the block around the loop: a
``with`` does not release its lock, and a ``finally`` does not run
(https://github.com/python/cpython/issues/130279). Such a loop belongs in a function of its own.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Iterator
from types import CodeType

from tests.support.docs_pages import ROOT
from tests.support.injection import handlers_of

SOURCES = sorted(
    path
    for folder in ("kvpool", "backends")
    for path in (ROOT / folder).rglob("*.py")
    if "testing" not in path.parts  # Ctrl-C ends a test anyway
)


def codes(code: CodeType) -> Iterator[CodeType]:
    """Yield a code object and those of all functions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes(constant)


def unguarded(code: CodeType) -> Iterator[int]:
    """Yield the lines of jumps back that leave the block which the loop is in."""
    handler = handlers_of(code)
    instructions = {one.offset: one for one in dis.get_instructions(code)}
    for one in instructions.values():
        target = handler(one.argval) if one.opname == "JUMP_BACKWARD" else None
        if target is None or handler(one.offset) == target:
            continue
        # The handlers of generators and comprehensions only tidy up what is theirs.
        if instructions[target].opname == "PUSH_EXC_INFO" and one.positions is not None:
            yield one.positions.lineno or 0


def test_no_loop_jumps_back_outside_of_the_block_around_it() -> None:
    found = []
    for path in SOURCES:
        code = compile(path.read_text(encoding="utf-8"), path, "exec", dont_inherit=True)
        found += [
            f"{path.relative_to(ROOT)}:{line} {one.co_qualname}"
            for one in codes(code)
            for line in unguarded(one)
        ]
    assert not found, "move these loops into functions of their own"


def test_a_loop_that_python_3_13_leaves_unguarded_is_found() -> None:
    code = compile("with lock:\n    while busy():\n        pass\n", "a.py", "exec")
    assert [line for one in codes(code) for line in unguarded(one)] == [2] * (
        sys.version_info[:2] == (3, 13)
    )
