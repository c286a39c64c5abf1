"""The process that runs this code, for objects that belong to the process that made them.

A child that `os.fork` made has copies of all objects of its parent. A copy must leave files,
locks and queues of the parent alone, and finds out by comparing `current.pid` with the pid
that it noted when it was made. `os.getpid` would tell the same and is a system call.
"""

from __future__ import annotations

import os

__all__ = ["current"]


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
