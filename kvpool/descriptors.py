"""`Descriptor`: the owner of a descriptor, which no interrupt can take from it.

A signal handler such as that of Ctrl-C may raise after any call: when `os.open` has returned a
descriptor and no variable holds it yet, or in the first instruction of a `__del__` method, or of
`weakref.finalize`, that is to close it. The descriptor would stay open until the process ends.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from itertools import starmap

from kvpool._closing import Closing

__all__ = ["Descriptor"]


class Descriptor(Closing):
    """A descriptor of the operating system, closed with the last reference to this object.

    Parameters
    ----------
    make : callable
        A built-in function, or one of a C library, that returns a descriptor: `os.open`, for
        example. A function that is written in Python could be interrupted before it returns.
    *arguments : object
        Of `make`.

    Attributes
    ----------
    number : int
        What `make` has returned. A negative number, by which a function of C reports an error,
        is not closed.

    Raises
    ------
    Exception
        What `make` raises; nothing is open then.
    """

    def __init__(self, make: Callable[..., int], *arguments: object) -> None:
        self._owner = _opened(make, arguments)
        self.number = next(self._owner)

    def close(self) -> None:
        """Close it; a second call does nothing, also while the first one is at it."""
        try:
            self._owner.close()
        except ValueError:  # the generator runs: another thread closes it, or what was interrupted
            return


def _opened(
    make: Callable[..., int],
    arguments: tuple[object, ...],
    close: Callable[[int], None] = os.close,
) -> Generator[int]:
    """Yield a descriptor, and close it when the generator is closed or not used any more.

    The generator keeps `close` itself: the interpreter empties modules at its end, and what
    another module keeps is closed after that.

    One built-in call makes the descriptor and puts it into the list. And the end of a generator
    raises at its ``yield``, so no instruction that checks for signals comes before `os.close`.
    """
    opened: list[int] = []
    try:
        opened.extend(starmap(make, (arguments,)))
        yield opened[0]
    finally:
        for number in opened:
            if number >= 0:
                close(number)
