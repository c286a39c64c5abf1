"""The arena contract: a range of bytes behind a backend.

An arena is only bytes. It knows nothing of blocks, entries or sessions: offsets, sizes and
states live in the allocator, so the same allocator serves RAM, a file or shared memory.

A backend is a plugin (see `kvpool.hookspecs`) that describes itself with an `ArenaBackend`
and creates `Arena` objects. The conformance suite in `kvpool.testing` states this contract
as tests that any backend can run.
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
"""Bytes: the least alignment of an arena's base address (one cache line)."""


class Capability(enum.Flag):
    """What an arena can do beyond holding bytes."""

    NONE = 0
    ELASTIC = enum.auto()
    """Pages are committed by the first touch; `Arena.decommit` gives them back to the system,
    and they read zero afterwards."""
    PERSISTENT = enum.auto()
    """The bytes live in a file that outlasts the process."""
    HUGE_PAGES = enum.auto()
    """Pages larger than the base page can be asked for."""
    LOCKED = enum.auto()
    """Pages can be locked into RAM."""
    PREFAULT = enum.auto()
    """Pages can be committed at creation."""
    NUMA = enum.auto()
    """Pages can be bound to a NUMA node."""
    FORK = enum.auto()
    """`Arena.fork` maps a range a second time, copy-on-write."""

    def names(self) -> tuple[str, ...]:
        """Return the names of the single capabilities that are set, in lower case.

        Returns
        -------
        tuple of str
            In the order of definition; empty for `Capability.NONE`.
        """
        return tuple(flag.name.lower() for flag in self if flag.name)


@dataclass(frozen=True, slots=True)
class ArenaInfo:
    """What an arena is, fixed at its creation.

    Parameters
    ----------
    backend : str
        Name of the backend that made it.
    size : int
        Bytes; a multiple of nothing in particular, exactly what was asked for.
    page_size : int
        Bytes of the unit in which `Arena.decommit` works; a power of two.
    alignment : int
        The base address is a multiple of this many bytes; a power of two, at least
        `MIN_ALIGNMENT`.
    capabilities : Capability
        What this arena can do, on this system and with these options.
    zeroed : bool
        Whether all bytes read zero at creation. False only for an arena over existing data.
    fork_limit : int
        How many forks may live at a time before the limits of the system on mappings or
        descriptors come near; 0 without `Capability.FORK`.
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

    A page shows what the arena has there until it is written through the fork; from then on
    it is the fork's own, and what either side writes stays unseen by the other.

    Notes
    -----
    A page that the fork has not written follows the arena: it shows what is written there
    later, and zeros where the arena is decommitted.

    Whoever holds the buffer, or anything made over it, keeps the mapping.
    """

    @property
    @abstractmethod
    def buffer(self) -> memoryview:
        """All bytes: format ``"B"``, writable, as long as the range that was forked."""

    @abstractmethod
    def decommit(self, offset: int, nbytes: int) -> None:
        """Drop the fork's own pages of a range, which follows the arena again.

        Parameters
        ----------
        offset, nbytes : int
            Bytes from the start of the fork; whole pages, inside of it.

        Raises
        ------
        ArenaError
            The system refused.
        """


class Arena(ABC):
    """A fixed range of writable bytes.

    A backend implements `info`, `buffer` and `close`; `_decommit` and `committed_bytes` if it
    has `Capability.ELASTIC`, and `_fork` if it has `Capability.FORK`.

    Notes
    -----
    *Lifetime.* Whoever holds the buffer, or anything made over it, keeps the bytes mapped:
    `close` gives up the arena's own hold and never pulls memory from under a live view.

    *Threads.* `buffer` and `info` may be used by any thread at any time. `decommit` may run
    beside access to other ranges; the caller guarantees that nobody uses the range that it
    passes. `close` is called once the owner has stopped every other call.

    *Processes.* A child made by ``os.fork`` leaves the arena alone: its bytes may be the
    parent's.
    """

    @property
    @abstractmethod
    def info(self) -> ArenaInfo:
        """What this arena is; readable after `close` as well."""

    @property
    @abstractmethod
    def buffer(self) -> memoryview:
        """All bytes, without a copy: format ``"B"``, one dimension, `info.size` long, writable.

        Each call shows the same memory at the same address. The address is a multiple of
        `info.alignment` and never moves.

        Raises
        ------
        ArenaError
            The arena is closed.
        """

    @abstractmethod
    def close(self) -> None:
        """Give up the memory; a second call does nothing.

        The system gets it back at once, or with the last view over it. A file stays, with
        what was written.
        """

    def decommit(self, offset: int, nbytes: int) -> None:
        """Give the pages of a range back to the system; the range reads zero afterwards.

        Parameters
        ----------
        offset, nbytes : int
            Bytes; both multiples of `info.page_size`, inside the arena.

        Raises
        ------
        UnsupportedError
            The arena lacks `Capability.ELASTIC`.
        ArenaError
            The range is not whole pages inside the arena, the arena is closed, or the system
            refused. No byte has changed.

        Notes
        -----
        A page comes back with the next touch. Where the pages belong to a file or to shared
        memory, reading is a touch as well: it commits a page of zeros.
        """
        self._require(Capability.ELASTIC, "decommit pages")
        self._check_pages("decommit", offset, nbytes)
        if nbytes:
            self._decommit(offset, nbytes)

    def committed_bytes(self) -> int | None:
        """Return the bytes of the pages that the system has committed to the arena.

        Returns
        -------
        int or None
            What the system says, forks not counted; None where it does not tell.

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
            The arena lacks `Capability.FORK`.
        ArenaError
            The range is not whole pages inside the arena, the arena is closed, or the system
            refused.

        Notes
        -----
        The arena may be written and decommitted beneath the fork, and closed. Writing
        through the fork where the arena has no page may commit one of zeros there as well.
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
        """Decommit whole pages; only called where the capability is there and the range fits."""
        raise UnsupportedError(
            f"the {self.info.backend} arena claims to decommit [{offset}, {offset + nbytes}) "
            "and does not implement it"
        )

    def _fork(self, offset: int, nbytes: int) -> ArenaFork:
        """Fork whole pages; only called where the capability is there and the range fits."""
        raise UnsupportedError(
            f"the {self.info.backend} arena claims to fork [{offset}, {offset + nbytes}) "
            "and does not implement it"
        )


@dataclass(frozen=True, slots=True)
class ArenaBackend:
    """What a backend plugin says of itself.

    Parameters
    ----------
    name : str
        The name of the plugin; errors show it.
    factory : callable
        ``factory(size, **options) -> Arena``, called by `create` with an `int` of at least 1 and
        with options that are all in `options`. Raises `InvalidOptionError` for a value that
        the option cannot take, and `ArenaError` where the system refuses; nothing is left
        behind then.
    capabilities : Capability
        What its arenas can do on this system with the fitting options.
    summary : str
        One line for people who choose a backend.
    options : mapping of str to str
        Name of each option, and one line of what it does.
    sparse : callable, optional
        ``sparse(options) -> int``: up to which size, in bytes, an arena with these options takes
        memory only where it is touched; 0 for none. By default no arena does.
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
            As described by `options`.

        Returns
        -------
        Arena

        Raises
        ------
        InvalidSizeError
            `size` is not an integer, less than 1, or more than an address can count.
        InvalidOptionError
            The backend lacks an option of that name, or the option cannot take the value.
        ArenaError
            The system refused.

        Notes
        -----
        After an error nothing is left: no mapping, no descriptor, no new file.
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
    """Return `size` as an `int`; NumPy integers are integers, a truth value is none."""
    try:
        nbytes = 0 if isinstance(size, bool) else operator.index(size)
    except TypeError:
        raise InvalidSizeError(f"the size of an arena is an integer, got {size!r}") from None
    if not 1 <= nbytes <= sys.maxsize:
        raise InvalidSizeError(
            f"the size of an arena is between 1 and {sys.maxsize} bytes, got {size!r}"
        )
    return nbytes
