"""Creation of arenas with libc; after a failure nothing is mapped and nothing is open."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvpool.arena import ArenaInfo, Capability, ForkLimits
from kvpool.errors import ArenaError, InvalidOptionError
from kvpool_ctypes import arena, libc, system

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvpool.descriptors import Descriptor

assert sys.platform == "linux", "imported on Linux only"  # type checkers rely on it too

__all__ = [
    "HUGE_PAGES",
    "create",
]

HUGE_PAGES = ("none", "transparent", "explicit")


@dataclass(frozen=True, slots=True)
class _Options:
    """The checked options of one arena."""

    huge_pages: str
    mlock: bool
    prefault: bool
    numa_node: int | None

    @property
    def page_size(self) -> int:
        """Bytes that come and go together."""
        if self.huge_pages == "explicit":
            return system.EXPLICIT_HUGE_PAGE
        if self.huge_pages == "transparent":
            return system.transparent_huge_page()
        return mmap.PAGESIZE

    @property
    def is_plain(self) -> bool:
        """Whether pages are plain ones: a fork's own pages could not be as these options say."""
        return self == _Options("none", mlock=False, prefault=False, numa_node=None)

    def capabilities(self) -> Capability:
        """Return what the options add to an arena."""
        found = Capability.NONE
        if self.huge_pages != "none":
            found |= Capability.HUGE_PAGES
        if self.mlock:
            found |= Capability.LOCKED
        if self.prefault:
            found |= Capability.PREFAULT
        if self.numa_node is not None:
            found |= Capability.NUMA
        return found


def create(
    size: int,
    *,
    huge_pages: object = "none",
    mlock: object = False,
    prefault: object = False,
    numa_node: object = None,
) -> arena.CtypesArena:
    """Create an arena of `size` zero bytes.

    Parameters
    ----------
    size : int
        Bytes. Whole pages are mapped; the arena shows exactly `size`.
    huge_pages : {"none", "transparent", "explicit"}
        Transparent ones are taken where the kernel finds them. Explicit ones are 2 MiB, must have
        been reserved by the administrator, and are all claimed at once.
    mlock : bool
        Pages stay in RAM, each from its first touch on (``MLOCK_ONFAULT``); with `prefault`, all
        from the start. The limit ``RLIMIT_MEMLOCK`` counts the whole arena at once.
    prefault : bool
        All pages are committed before the arena is returned.
    numa_node : int, optional
        The node whose memory the pages come from, and no other.

    Returns
    -------
    CtypesArena

    Raises
    ------
    InvalidOptionError
        An option has a value that it cannot have; for `numa_node` the text lists the nodes.
    ArenaError
        The system refused; the text says which option, the error number, and what helps.

    Notes
    -----
    With huge pages of either kind, the page size of the arena is theirs: that much is committed
    by the first touch, and given back at once.
    """
    options = _checked(huge_pages, mlock, prefault, numa_node)
    page_size = options.page_size
    length = -(-size // page_size) * page_size
    mapping = _mapping(_memory(options, length), size, length, page_size)
    try:
        return _arena(mapping, options)
    except BaseException:
        mapping.close()  # now, not when the traceback lets go of it
        raise


def _checked(huge_pages: object, mlock: object, prefault: object, numa_node: object) -> _Options:
    if not isinstance(huge_pages, str) or huge_pages not in HUGE_PAGES:
        known = ", ".join(map(repr, HUGE_PAGES))
        raise InvalidOptionError(f"huge_pages must be one of {known}, got {huge_pages!r}")
    if not isinstance(mlock, bool):
        raise InvalidOptionError(f"mlock must be True or False, got {mlock!r}")
    if not isinstance(prefault, bool):
        raise InvalidOptionError(f"prefault must be True or False, got {prefault!r}")
    if numa_node is not None:
        nodes = system.nodes()
        if not isinstance(numa_node, int) or isinstance(numa_node, bool) or numa_node not in nodes:
            known = ", ".join(map(str, nodes)) or "none"
            raise InvalidOptionError(
                f"numa_node must be the number of a node with memory ({known}), got {numa_node!r}"
            )
    return _Options(huge_pages, mlock, prefault, numa_node)


# -- the steps, each with its own refusal -------------------------------------------------


def _memory(options: _Options, length: int) -> Descriptor:
    """Create the memfd, empty, of the pages that the options ask for."""
    if options.huge_pages == "transparent" and (refusal := system.transparent_refusal()):
        raise ArenaError(
            f"huge_pages='transparent': {refusal}, so memory that is shared gets none; "
            "have 'advise' written there, or take huge_pages='none'"
        )
    if options.huge_pages == "explicit":
        needed, free = length // system.EXPLICIT_HUGE_PAGE, system.free_huge_pages()
        if needed > free:
            raise ArenaError(
                f"huge_pages='explicit': {errno.errorcode[errno.ENOMEM]}: {needed} pages of "
                f"{system.EXPLICIT_HUGE_PAGE} bytes are needed, {free} are free; "
                f"reserve more (sysctl vm.nr_hugepages), or take huge_pages='none'"
            )
    flags = libc.MFD_HUGETLB_2MB if options.huge_pages == "explicit" else 0
    with _refusal(f"huge_pages={options.huge_pages!r}", "take huge_pages='none' or 'numpy'"):
        return libc.memfd(b"kvpool", flags)


def _mapping(memfd: Descriptor, size: int, length: int, page_size: int) -> arena.SharedMapping:
    try:
        with _refusal(f"size={size}", "ask for less"):
            os.ftruncate(memfd.number, length)
            addresses, address = libc.map_shared(memfd.number, length, page_size)
    except BaseException:
        memfd.close()  # now, not when the traceback lets go of it
        raise
    return arena.SharedMapping(memfd, addresses, address, size, length)


def _arena(mapping: arena.SharedMapping, options: _Options) -> arena.CtypesArena:
    address, length = mapping.address, mapping.length
    libc.leave_out_of_dumps(address, length)
    if options.huge_pages == "transparent":
        with _refusal("huge_pages='transparent'", "take huge_pages='none'"):
            libc.advise_huge(address, length)
    if options.numa_node is not None:
        with _refusal(f"numa_node={options.numa_node}", f"nodes here: {system.nodes()}"):
            libc.bind_to_node(address, length, options.numa_node)
    # Before any page is locked, and on the node that pages are bound to.
    elastic = _gives_pages_back(mapping, options.page_size)
    if options.mlock:
        _lock(mapping)
    if options.prefault:
        _prefault(mapping, options)
    forks = bool(elastic) and options.is_plain
    info = ArenaInfo(
        backend="ctypes",
        size=mapping.size,
        page_size=options.page_size,
        alignment=options.page_size,
        capabilities=options.capabilities()
        | elastic
        | (Capability.FORK if forks else Capability.NONE),
        fork_limit=ForkLimits.limit(descriptors=False) if forks else 0,
    )
    return arena.CtypesArena(mapping, info)


def _gives_pages_back(mapping: arena.SharedMapping, page_size: int) -> Capability:
    """Try on the first page, still untouched: a hole must read zero and free its memory."""
    first, descriptor = mapping.array(), mapping.descriptor
    first[0] = 1
    before = os.fstat(descriptor).st_blocks
    try:
        libc.punch_hole(descriptor, 0, page_size)
    except OSError:
        first[0] = 0
        return Capability.NONE
    after = os.fstat(descriptor).st_blocks  # before the byte is read: that commits its page again
    works = after < before and first[0] == 0
    libc.punch_hole(descriptor, 0, page_size)
    return Capability.ELASTIC if works else Capability.NONE


def _lock(mapping: arena.SharedMapping) -> None:
    advice = (
        f"RLIMIT_MEMLOCK allows {system.lock_limit()} bytes and {mapping.length} are needed; "
        "raise it (ulimit -l), or take mlock=False"
    )
    with _refusal("mlock=True", advice):
        libc.lock(mapping.address, mapping.length)


def _prefault(mapping: arena.SharedMapping, options: _Options) -> None:
    # Explicit huge pages are claimed already, and not part of what is available.
    available = None if options.huge_pages == "explicit" else system.available_memory()
    if available is not None and mapping.length > available:
        # The kernel would not refuse: it would end a process, this one or another.
        raise ArenaError(
            f"prefault=True: {errno.errorcode[errno.ENOMEM]}: {mapping.length} bytes are needed, "
            f"{available} are available; ask for less, or take prefault=False"
        )
    advice = "ask for less, or take prefault=False"
    with _refusal("prefault=True", advice):
        try:
            libc.populate(mapping.address, mapping.length)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            mapping.array()[:: mmap.PAGESIZE] = 0  # an older kernel: touch each page


@contextlib.contextmanager
def _refusal(option: str, advice: str) -> Iterator[None]:
    """Turn what the system says into an error that names the option and what helps."""
    try:
        yield
    except OSError as error:
        raise ArenaError(f"{option}: {arena.why(error)}; {advice}") from error
    except OverflowError as error:
        raise ArenaError(f"{option}: {error}; {advice}") from error
