"""The contract of storage backends: an arena is a fixed range of bytes.

An arena does not know of blocks, entries or sessions. Offsets, sizes and states are kept by the
allocator, so the same allocator works on RAM, a file or shared memory.

A backend is a plugin (see `kvpool.hookspecs`) that describes itself with an `ArenaBackend` and
creates `Arena` objects. The conformance suite in `kvpool.testing` contains this contract as
tests that any backend can run.
"""

from __future__ import annotations

import enum
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Self

from kvpool._checks import byte_count
from kvpool._process import current
from kvpool.errors import (
    ArenaError,
    ForkedProcessError,
    InvalidOptionError,
    UnsupportedError,
)
from kvpool.fork_limits import ForkLimits

__all__ = [
    "MIN_ALIGNMENT",
    "Arena",
    "ArenaBackend",
    "ArenaFork",
    "ArenaInfo",
    "Capability",
    "ForkLimits",
]

MIN_ALIGNMENT = 64
"""Minimum alignment of the base address of an arena, in bytes (one cache line)."""


class Capability(enum.Flag):
    """What an arena can do in addition to holding bytes."""

    NONE = 0
    ELASTIC = enum.auto()
    """Pages are committed at the first access; `Arena.decommit` returns them to the system,
    and they read zero afterwards."""
    PERSISTENT = enum.auto()
    """The bytes are in a file that remains after the process has ended."""
    HUGE_PAGES = enum.auto()
    """Pages larger than the base page can be requested."""
    LOCKED = enum.auto()
    """Pages can be locked into RAM."""
    PREFAULT = enum.auto()
    """Pages can be committed at creation."""
    NUMA = enum.auto()
    """Pages can be bound to a NUMA node."""
    FORK = enum.auto()
    """`Arena.fork` maps a range a second time, copy-on-write."""

    def names(self) -> tuple[str, ...]:
        """Return the names of the capabilities that are set, in lower case.

        Returns
        -------
        tuple of str
            In the order of definition; empty for `Capability.NONE`.
        """
        return tuple(flag.name.lower() for flag in self if flag.name)


@dataclass(frozen=True, slots=True)
class ArenaInfo:
    """The properties of an arena, fixed at its creation.

    Parameters
    ----------
    backend : str
        Name of the backend that created the arena.
    size : int
        Bytes; exactly the requested size, not rounded up.
    page_size : int
        Bytes of a page, the unit of `Arena.decommit`; a power of two.
    alignment : int
        The base address is a multiple of this many bytes; a power of two, at least
        `MIN_ALIGNMENT`.
    capabilities : Capability
        What this arena can do, on this system and with these options.
    zeroed : bool
        Whether all bytes read zero at creation. False only for an arena over existing data.
    fork_limit : int
        How many forks of all arenas together may live in this process at a time; 0 without
        `Capability.FORK`. See `ForkLimits`.
    needs_commit : bool
        Whether `Arena.commit` must be called before pages are first written. True if the
        pages need room on a disk, which may be full.
    """

    backend: str
    size: int
    page_size: int
    alignment: int
    capabilities: Capability = Capability.NONE
    zeroed: bool = True
    fork_limit: int = 0
    needs_commit: bool = False


class _OwnedByProcess(ABC):
    """An object that only the process that made it may use.

    Notes
    -----
    `__new__` notes the process, so that a subclass need not call an initializer of this class.
    """

    _process: int

    def __new__(cls, *_arguments: object, **_options: object) -> Self:
        """Note the process."""
        self = object.__new__(cls)  # a fork is made in few microseconds
        self._process = current.pid
        return self

    def _check_process(self) -> None:
        """Raise `ForkedProcessError` if this process is a child of the one that made the object.

        Raises
        ------
        ForkedProcessError
            `os.fork` made this process after the object was made.
        """
        if self._process != current.pid:
            raise ForkedProcessError(
                f"{type(self).__name__} belongs to process {self._process}, and this is process "
                f"{current.pid}, a child made by os.fork; create an arena of its own in the child"
            )


class ArenaFork(_OwnedByProcess):
    """A private mapping of a range of an arena, made by `Arena.fork`.

    A page shows the bytes of the arena until it is written through the fork. From then on the
    page is private to the fork: neither side sees what the other writes.

    Notes
    -----
    A page that the fork has not written follows the arena: it shows later writes to the arena,
    and zeros after the arena is decommitted there.

    The mapping stays as long as the buffer, or an object that uses it, is referenced.
    """

    @property
    @abstractmethod
    def buffer(self) -> memoryview:
        """All bytes: format ``"B"``, writable, as long as the range that was forked.

        Raises
        ------
        ForkedProcessError
            This process is a child of the one that made the fork.
        """

    @abstractmethod
    def decommit(self, offset: int, nbytes: int) -> None:
        """Drop the private pages of a range; the range follows the arena again.

        Parameters
        ----------
        offset, nbytes : int
            Bytes from the start of the fork; whole pages inside of the fork.

        Raises
        ------
        ForkedProcessError
            This process is a child of the one that made the fork.
        ArenaError
            The operating system refused.
        """


class Arena(_OwnedByProcess):
    """A fixed range of writable bytes.

    A backend implements `info`, `buffer` and `close`; `_decommit` and `committed_bytes` if it
    has `Capability.ELASTIC`, `_fork` if it has `Capability.FORK`, and `_commit` if its
    `info.needs_commit` is True.

    Notes
    -----
    *Lifetime.* The bytes stay mapped as long as the buffer, or an object that uses it, is
    referenced: `close` drops the arena's own reference, and a live view stays valid.

    *Threads.* `buffer` and `info` may be used by any thread at any time. `decommit` may run
    at the same time as access to other ranges; the caller guarantees that no thread uses the
    decommitted range. `close` is called after all other calls have ended.

    *Processes.* An arena belongs to the process that made it. In a child that `os.fork` made,
    `buffer`, `commit`, `decommit`, `committed_bytes` and `fork` raise `ForkedProcessError`;
    `info` stays readable; `close` and garbage collection only let go of the child's own copy.
    Views that the child inherited stay readable, and what the child writes through them stays
    unseen by the parent. A page of such a view that the child has not written may show what
    the parent writes there later.
    """

    @property
    @abstractmethod
    def info(self) -> ArenaInfo:
        """The properties of the arena; also readable after `close`."""

    @property
    @abstractmethod
    def buffer(self) -> memoryview:
        """All bytes, without a copy: format ``"B"``, one dimension, `info.size` long, writable.

        Each call returns the same memory at the same address, which is a multiple of
        `info.alignment`.

        Raises
        ------
        ForkedProcessError
            This process is a child of the one that made the arena.
        ArenaError
            The arena is closed.
        """

    @abstractmethod
    def close(self) -> None:
        """Release the memory; a second call does nothing.

        The memory returns to the operating system at once, or with the last view of it. A file
        stays, with its contents.
        """

    def commit(self, offset: int, nbytes: int) -> None:
        """Have the system find room for the pages of a range, before they are written.

        Parameters
        ----------
        offset, nbytes : int
            Bytes, inside the arena. Pages that are there already keep their bytes.

        Raises
        ------
        ArenaFullError
            The file system has no room. Some pages of the range may have been committed.
        ForkedProcessError
            This process is a child of the one that made the arena.
        ArenaError
            The range is not inside the arena, the arena is closed, or the system refused.

        Notes
        -----
        No byte changes, with or without an error. Without `info.needs_commit` the call does
        nothing but check: the first touch commits a page. With it, writing to a page for
        which the disk has no room ends the process (SIGBUS) unless the page was committed.
        """
        self._check_process()
        self._check_inside("commit", offset, nbytes, self.info.size)
        if nbytes:
            self._commit(offset, nbytes)

    def decommit(self, offset: int, nbytes: int) -> None:
        """Return the pages of a range to the operating system; the range reads zero afterwards.

        Parameters
        ----------
        offset, nbytes : int
            Bytes; both multiples of `info.page_size`, inside the arena.

        Raises
        ------
        UnsupportedError
            The arena does not have `Capability.ELASTIC`.
        ForkedProcessError
            This process is a child of the one that made the arena.
        ArenaError
            The range is not whole pages inside the arena, the arena is closed, or the operating
            system refused. No byte has changed.

        Notes
        -----
        The next access commits a page again. In a file or in shared memory, reading is an access
        too: it commits a page of zeros.
        """
        self._check_process()
        self._require(Capability.ELASTIC, "decommit pages")
        self._check_pages("decommit", offset, nbytes)
        if nbytes:
            self._decommit(offset, nbytes)

    def committed_bytes(self) -> int | None:
        """Return the bytes of the pages that the operating system has committed to the arena.

        Returns
        -------
        int or None
            The count of the operating system, without forks; None if it does not report one.

        Raises
        ------
        ForkedProcessError
            This process is a child of the one that made the arena.
        ArenaError
            The arena is closed.
        """
        self._check_process()
        return None

    def fork(self, offset: int, nbytes: int) -> ArenaFork:
        """Map a range a second time, copy-on-write.

        Parameters
        ----------
        offset, nbytes : int
            Bytes; both multiples of `info.page_size`, inside the arena, and not empty.

        Returns
        -------
        ArenaFork

        Raises
        ------
        UnsupportedError
            The arena does not have `Capability.FORK`.
        ForkLimitError
            The process has no mapping, descriptor or memory left for another fork.
        ForkedProcessError
            This process is a child of the one that made the arena.
        ArenaError
            The range is not whole pages inside the arena, the arena is closed, or the operating
            system refused.

        Notes
        -----
        The arena may still be written, decommitted and closed. A write through the fork where
        the arena has no page may commit a page of zeros in the arena as well.
        """
        self._check_process()
        self._require(Capability.FORK, "fork a range")
        self._check_pages("fork", offset, nbytes)
        if not nbytes:
            raise ArenaError(f"cannot fork [{offset}, {offset}): it is empty")
        return self._fork(offset, nbytes)

    def _require(self, capability: Capability, what: str) -> None:
        if capability not in self.info.capabilities:
            raise UnsupportedError(f"the {self.info.backend} arena cannot {what}")

    def _check_pages(self, verb: str, offset: int, nbytes: int) -> None:
        info = self.info
        if offset % info.page_size or nbytes % info.page_size:
            raise ArenaError(
                f"cannot {verb} [{offset}, {offset + nbytes}): "
                f"not a multiple of the page size {info.page_size}"
            )
        self._check_inside(verb, offset, nbytes, info.size)

    def _check_inside(self, verb: str, offset: int, nbytes: int, size: int) -> None:
        if offset < 0 or nbytes < 0 or offset + nbytes > size:
            raise ArenaError(f"cannot {verb} [{offset}, {offset + nbytes}): outside of [0, {size})")

    def _commit(self, offset: int, nbytes: int) -> None:
        """Commit a range; a backend overrides this if its `info.needs_commit` is True."""

    def _decommit(self, offset: int, nbytes: int) -> None:
        """Decommit whole pages. The caller has checked the capability and the range."""
        raise UnsupportedError(
            f"the {self.info.backend} arena has Capability.ELASTIC but does not implement "
            f"_decommit, called for [{offset}, {offset + nbytes})"
        )

    def _fork(self, offset: int, nbytes: int) -> ArenaFork:
        """Fork whole pages. The caller has checked the capability and the range."""
        raise UnsupportedError(
            f"the {self.info.backend} arena has Capability.FORK but does not implement _fork, "
            f"called for [{offset}, {offset + nbytes})"
        )


@dataclass(frozen=True, slots=True)
class ArenaBackend:
    """The description of a backend, which its plugin returns.

    Parameters
    ----------
    name : str
        Name of the plugin, for error messages.
    factory : callable
        ``factory(size, **options) -> Arena``, called by `create` with an `int` of at least 1 and
        with options that are all in `options`. Raises `InvalidOptionError` for a value that the
        option does not accept, and `ArenaError` if the operating system refuses; it must then
        leave nothing behind.
    capabilities : Capability
        What its arenas can do on this operating system, given the right options.
    summary : str
        One line for people who choose a backend.
    options : mapping of str to str
        Name of each option, and one line that explains it.
    sparse : callable, optional
        ``sparse(options) -> int``: the largest size, in bytes, at which an arena with these
        options takes memory only for the pages that are accessed; 0 if it always takes all. By
        default 0.
    """

    name: str
    factory: Callable[..., Arena]
    capabilities: Capability
    summary: str
    options: Mapping[str, str] = field(default_factory=dict)
    sparse: Callable[[Mapping[str, object]], int] | None = None

    def create(self, size: int, **options: object) -> Arena:
        """Create an arena.

        Parameters
        ----------
        size : int
            Bytes, at least 1.
        **options
            Options of the backend, as in `options`.

        Returns
        -------
        Arena

        Raises
        ------
        InvalidSizeError
            `size` is not an integer from 1 to ``sys.maxsize``.
        InvalidOptionError
            The backend has no such option, or the option does not accept the value.
        ArenaError
            The operating system refused.

        Notes
        -----
        Atomic: after an error no mapping, descriptor or new file is left.
        """
        nbytes = byte_count("the size of an arena", size, least=1, most=sys.maxsize)
        for name, value in options.items():
            if name not in self.options:
                known = ", ".join(sorted(self.options)) or "none"
                raise InvalidOptionError(
                    f"the {self.name} backend has no option {name!r} (given {value!r}); "
                    f"its options: {known}"
                )
        return self.factory(nbytes, **options)
