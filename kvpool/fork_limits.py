"""How many forks the arenas of one process may have, all backends together.

A fork is a mapping of the kernel, and with some backends an open descriptor. A process may
have a limited number of each, and its threads, files and allocations need them too.
"""

from __future__ import annotations

import errno
import sys
from functools import cache
from pathlib import Path
from typing import ClassVar
from weakref import ref

from kvpool.errors import ArenaError, ForkLimitError

if sys.platform != "win32":
    import resource

__all__ = ["ForkLimits"]


class ForkLimits:
    """The forks of all arenas of this process, and how many there may be.

    Notes
    -----
    Forks may take half of the mappings of a process (``vm.max_map_count``), and half of its
    descriptors (``RLIMIT_NOFILE``, read at each call from the 16th fork on) if each fork keeps
    one. What is counted are the mappings that are alive, so an interrupted call leaves nothing to
    correct.

    Threads may call at the same time, and may exceed a limit by one fork each.
    """

    # Each reference takes itself out of its set when the mapping ends. A WeakSet would do the same,
    # and its Python code would cost a third of a fork.
    _plain: ClassVar[set[ref[object]]] = set()
    _with_descriptor: ClassVar[set[ref[object]]] = set()

    @classmethod
    def limit(cls, *, descriptors: bool) -> int:
        """Return how many forks may live at a time.

        Parameters
        ----------
        descriptors : bool
            Whether a fork keeps a descriptor.
        """
        limits = [_max_mappings() // 2]
        if descriptors:
            limits.append(_max_descriptors() // 2)
        return min(limits)

    @classmethod
    def check(cls, *, descriptors: bool) -> None:
        """Raise if there is no room for one more fork.

        Parameters
        ----------
        descriptors : bool
            Whether the fork would keep a descriptor.

        Raises
        ------
        ForkLimitError
            The text and `reason` say which limit was reached.
        """
        held = len(cls._with_descriptor)
        mappings = len(cls._plain) + held
        if mappings >= _max_mappings() // 2:
            raise ForkLimitError(
                f"the forks of this process have {mappings} mappings, half of what "
                "vm.max_map_count allows; raise it, or keep fewer forks",
                "mappings",
            )
        if descriptors and held >= _FEW and held >= _max_descriptors() // 2:
            raise ForkLimitError(
                f"the forks of this process have {held} descriptors, half "
                "of what RLIMIT_NOFILE allows; raise it (ulimit -n), or keep fewer forks",
                "descriptors",
            )

    @classmethod
    def add(cls, mapping: object, *, descriptors: bool) -> None:
        """Count a fork for as long as an object is alive.

        Parameters
        ----------
        mapping : object
            The owner of the mapping: hashable by identity, and weakly referable.
        descriptors : bool
            Whether the fork keeps a descriptor.
        """
        alive = cls._with_descriptor if descriptors else cls._plain
        alive.add(ref(mapping, alive.discard))

    @staticmethod
    def refusal(error: OSError, offset: int, nbytes: int) -> ArenaError:
        """Return the error of a fork that the system refused.

        Parameters
        ----------
        error : OSError
            What the system said.
        offset, nbytes : int
            Bytes of the arena that were to be forked.

        Returns
        -------
        ArenaError
            A `ForkLimitError` if the process has run out of something.
        """
        name = errno.errorcode.get(error.errno or 0, "error")
        message = f"cannot fork [{offset}, {offset + nbytes}): {name}: {error.strerror or error}"
        reason = _REASONS.get(error.errno or 0)
        return ForkLimitError(message, reason) if reason else ArenaError(message)


_FEW = 16
"""Descriptors that any process has for its forks; up to here the system is not asked."""

# The kernel says ENOMEM for too many mappings as well as for too little memory.
_REASONS = {errno.ENOMEM: "memory", errno.EMFILE: "descriptors", errno.ENFILE: "descriptors"}


@cache
def _max_mappings() -> int:
    """Return the mappings that a process may have; the kernel's default if it does not tell."""
    try:
        return int(Path("/proc/sys/vm/max_map_count").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 65530


def _max_descriptors() -> int:
    """Return the descriptors that this process may have now."""
    if sys.platform == "win32":
        return sys.maxsize
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft
