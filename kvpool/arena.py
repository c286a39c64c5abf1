"""The contract of storage backends: an arena is a fixed range of bytes.

An arena does not know of blocks, entries or sessions. Offsets, sizes and states are kept by the
allocator, so the same allocator works on RAM, a file or shared memory.

A backend is a plugin (see `kvpool.hookspecs`) that describes itself with an `ArenaBackend` and
creates `Arena` objects. The conformance suite in `kvpool.testing` contains this contract as
tests that any backend can run.
"""

from __future__ import annotations

import enum
import operator
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kvpool.errors import ArenaError, InvalidOptionError, InvalidSizeError, UnsupportedError

__all__ = ["MIN_ALIGNMENT", "Arena", "ArenaBackend", "ArenaFork", "ArenaInfo", "Capability"]

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
        How many forks may exist at a time without coming near the limits of the operating system
        on mappings and descriptors; 0 without `Capability.FORK`.
    """

    backend: str
    size: int
    page_size: int
    alignment: int
    capabilities: Capability = Capability.NONE
    zeroed: bool = True
    fork_limit: int = 0


class ArenaFork(ABC):
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
        """All bytes: format ``"B"``, writable, as long as the range that was forked."""

    @abstractmethod
    def decommit(self, offset: int, nbytes: int) -> None:
        """Drop the private pages of a range; the range follows the arena again.

        Parameters
        ----------
        offset, nbytes : int
            Bytes from the start of the fork; whole pages inside of the fork.

        Raises
        ------
        ArenaError
            The operating system refused.
        """


class Arena(ABC):
    """A fixed range of writable bytes.

    A backend implements `info`, `buffer` and `close`; `_decommit` and `committed_bytes` if it
    has `Capability.ELASTIC`, and `_fork` if it has `Capability.FORK`.

    Notes
    -----
    *Lifetime.* The bytes stay mapped as long as the buffer, or an object that uses it, is
    referenced: `close` drops the arena's own reference, and a live view stays valid.

    *Threads.* `buffer` and `info` may be used by any thread at any time. `decommit` may run
    at the same time as access to other ranges; the caller guarantees that no thread uses the
    decommitted range. `close` is called after all other calls have ended.

    *Processes.* A child process made by ``os.fork`` must not change the arena: it may share its
    bytes with the parent.
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
        ArenaError
            The arena is closed.
        """

    @abstractmethod
    def close(self) -> None:
        """Release the memory; a second call does nothing.

        The memory returns to the operating system at once, or with the last view of it. A file
        stays, with its contents.
        """

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
        ArenaError
            The range is not whole pages inside the arena, the arena is closed, or the operating
            system refused. No byte has changed.

        Notes
        -----
        The next access commits a page again. In a file or in shared memory, reading is an access
        too: it commits a page of zeros.
        """
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
        ArenaError
            The arena is closed.
        """
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
        ArenaError
            The range is not whole pages inside the arena, the arena is closed, or the operating
            system refused.

        Notes
        -----
        The arena may still be written, decommitted and closed. A write through the fork where
        the arena has no page may commit a page of zeros in the arena as well.
        """
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
        if offset < 0 or nbytes < 0 or offset + nbytes > info.size:
            raise ArenaError(
                f"cannot {verb} [{offset}, {offset + nbytes}): outside of [0, {info.size})"
            )

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
        nbytes = _checked_size(size)
        for name, value in options.items():
            if name not in self.options:
                known = ", ".join(sorted(self.options)) or "none"
                raise InvalidOptionError(
                    f"the {self.name} backend has no option {name!r} (given {value!r}); "
                    f"its options: {known}"
                )
        return self.factory(nbytes, **options)


def _checked_size(size: Any) -> int:
    """Return `size` as an `int`. NumPy integers are accepted, True and False are not."""
    try:
        nbytes = 0 if isinstance(size, bool) else operator.index(size)
    except TypeError:
        raise InvalidSizeError(f"invalid arena size {size!r}; expected an integer") from None
    if not 1 <= nbytes <= sys.maxsize:
        raise InvalidSizeError(
            f"invalid arena size {size!r}; expected an integer from 1 to {sys.maxsize}"
        )
    return nbytes
