"""The process that runs this code, for objects that belong to the process that made them.

A child that `os.fork` made has copies of all objects of its parent. A copy must leave files,
locks and queues of the parent alone, and finds out by comparing `current.pid` with the pid
that it noted when it was made. `os.getpid` would tell the same and is a system call.

A copy of a lock that another thread held at the fork is never released in the child. So every
object with a lock is a `ForkAware`, which makes its lock anew as soon as a child begins.
"""

from __future__ import annotations

import os
import weakref
from abc import ABC, abstractmethod

from kvpool.errors import ForkedProcessError

__all__ = ["ForkAware", "current", "forget_forks", "in_child_of", "watch_forks"]


class _Process:
    """The process that runs this code.

    Attributes
    ----------
    pid : int
        Its number; in a child of `os.fork`, that of the child.
    """

    __slots__ = ("pid",)

    def __init__(self) -> None:
        self.look()

    def look(self) -> None:
        """Ask the system."""
        self.pid = os.getpid()


current = _Process()

if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=current.look)


class ForkAware(ABC):
    """An object with a lock, which is told in each child that `os.fork` makes.

    Notes
    -----
    Once a new object has its lock, it calls ``watch_forks(weakref.ref(self, forget_forks))``.
    This is neither a method nor a `WeakSet`, because entries are made often: these two calls run
    no code in Python.
    """

    @abstractmethod
    def _enter_child(self) -> None:
        """Make the lock anew, in a child; refuse calls from now on, if only the parent may call."""

    @staticmethod
    def _tell_all() -> None:
        for reference in list(_aware):
            inherited = reference()
            if inherited is not None:
                ForkAware._tell(inherited)

    @staticmethod
    def _tell(inherited: ForkAware) -> None:
        inherited._enter_child()

    if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
        os.register_at_fork(after_in_child=_tell_all)


_aware: set[weakref.ref[ForkAware]] = set()
watch_forks = _aware.add
forget_forks = _aware.discard


def in_child_of(owner: int, what: str) -> ForkedProcessError:
    """Return the error of a call in a child of the process that made an object.

    Parameters
    ----------
    owner : int
        Number of the process that made it.
    what : str
        Names the object, such as ``"manager"``.
    """
    return ForkedProcessError(
        f"the {what} belongs to process {owner}, and this is process {current.pid}, "
        f"a child made by os.fork; make a {what} in each process"
    )
