"""Creation of arenas over memory or over a file; after a failure nothing is left."""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from kvpool.arena import ArenaInfo, Capability
from kvpool.errors import ArenaError, InvalidOptionError
from kvpool_mmap.arena import MmapArena, remove_pages
from kvpool_mmap.errors import why
from kvpool_mmap.fork import fork_limit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "SPARSE_FILE",
    "SPARSE_MEMORY",
    "create",
    "sparse_size",
]

SPARSE_MEMORY = 32 << 40
"""Bytes: a quarter of what the address space of a process has on common machines."""
SPARSE_FILE = 8 << 40
"""Bytes: half of the largest file of ext4."""


def sparse_size(options: Mapping[str, object]) -> int:
    """Return up to which size an arena takes memory or disk only where it is touched."""
    if sys.platform != "linux" or options.get("reuse"):
        return 0
    return SPARSE_MEMORY if options.get("path") is None else SPARSE_FILE


def create(size: int, *, path: object = None, reuse: object = False) -> MmapArena:
    """Create an arena.

    Parameters
    ----------
    size : int
        Bytes.
    path : str or os.PathLike of str, optional
        File that holds the bytes, created sparse if it is missing. Without a path the bytes
        are memory of this process.
    reuse : bool
        Whether the file may have content; it is kept then, and must be `size` bytes.

    Returns
    -------
    MmapArena

    Raises
    ------
    InvalidOptionError
        `path` is no path, or `reuse` is no bool or stands without a path.
    ArenaError
        The file has content without `reuse`, or another size, or the system refused.

    Notes
    -----
    On Linux, memory is a memfd: a file in memory, which can give pages back and can be mapped
    again. An interpreter that was built for an old C library lacks it; shared anonymous memory
    can give pages back too.

    A file takes disk space when its pages are written. Touching a page for which the disk has no
    room ends the process (SIGBUS), as with every sparse mapping.
    """
    if not isinstance(reuse, bool):
        raise InvalidOptionError(f"reuse is True or False, got {reuse!r}")
    if path is None:
        if reuse:
            raise InvalidOptionError("reuse=True is for a file: give its path too")
        return _create_in_memory(size)
    return _create_in_file(size, _checked_path(path), reuse=reuse)


def _checked_path(path: object) -> Path:
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise InvalidOptionError(f"path is the path of a file, got {path!r}")
    name = os.fspath(path)
    if not isinstance(name, str) or "\0" in name:
        raise InvalidOptionError(f"path is the path of a file, as text, got {path!r}")
    return Path(name)


# -- memory ------------------------------------------------------------------------------


def _create_in_memory(size: int) -> MmapArena:
    with _refusal(f"memory of {size} bytes"):
        if sys.platform == "linux" and hasattr(os, "memfd_create"):
            with _closing_on_failure(os.memfd_create("kvpool")) as descriptor:
                elastic = _gives_pages_back(descriptor)
                return _map(descriptor, size, elastic)
        mapping = mmap.mmap(-1, size)
    elastic = _reads_zero_when_removed(mapping)
    return MmapArena(mapping, _info(size, Capability.ELASTIC if elastic else Capability.NONE))


def _reads_zero_when_removed(mapping: mmap.mmap) -> bool:
    """Try on the first page of fresh memory whether its removal works."""
    mapping[0] = 1
    try:
        remove_pages(mapping, 0, mmap.PAGESIZE)
    except OSError:
        mapping[0] = 0
        return False
    return mapping[0] == 0


# -- a file ------------------------------------------------------------------------------


def _create_in_file(size: int, path: Path, *, reuse: bool) -> MmapArena:
    with _refusal(f"path={str(path)!r}"):
        descriptor, created = _open(path)
        try:
            with _closing_on_failure(descriptor):
                return _map_file(descriptor, size, path, reuse=reuse)
        except BaseException:
            if created:
                path.unlink(missing_ok=True)
            raise


def _open(path: Path) -> tuple[int, bool]:
    """Open a file, and say whether it was created; readable by its owner alone."""
    flags = os.O_RDWR | getattr(os, "O_BINARY", 0)
    try:
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600), True
    except FileExistsError:
        return os.open(path, flags), False


def _map_file(descriptor: int, size: int, path: Path, *, reuse: bool) -> MmapArena:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise ArenaError(f"path={str(path)!r} is not a regular file")
    held = status.st_size
    if not held:
        try:
            return _map(descriptor, size, _gives_pages_back(descriptor), persistent=True)
        except BaseException:
            os.ftruncate(descriptor, 0)
            raise
    if held != size:
        raise ArenaError(f"path={str(path)!r} holds {held} bytes, the arena is to have {size}")
    if not reuse:
        raise ArenaError(
            f"path={str(path)!r} holds {held} bytes already: "
            "pass reuse=True to keep them, or take another path"
        )
    elastic = _neighbour_gives_pages_back(path, status.st_dev)
    return _map(descriptor, size, elastic, persistent=True, zeroed=False)


def _neighbour_gives_pages_back(path: Path, device: int) -> bool:
    """Try it on a nameless file beside `path`, whose own bytes are not ours to change."""
    try:
        with tempfile.TemporaryFile(dir=path.resolve().parent) as scratch:
            descriptor = scratch.fileno()
            return os.fstat(descriptor).st_dev == device and _gives_pages_back(descriptor)
    except OSError:
        return False


# -- both --------------------------------------------------------------------------------


def _map(
    descriptor: int, size: int, elastic: bool, *, persistent: bool = False, zeroed: bool = True
) -> MmapArena:
    os.ftruncate(descriptor, size)
    capabilities = Capability.PERSISTENT if persistent else Capability.NONE
    if elastic:
        capabilities |= Capability.ELASTIC
    if elastic and fork_limit():
        capabilities |= Capability.FORK
    info = _info(size, capabilities, zeroed=zeroed)
    mapping = mmap.mmap(descriptor, size)
    if sys.platform == "linux":
        mapping.madvise(mmap.MADV_DONTDUMP)  # a core dump would walk through all addresses
    return MmapArena(mapping, info, descriptor)


def _gives_pages_back(descriptor: int) -> bool:
    """Try on an empty file whether a removed page reads zero and frees its memory.

    Some file systems refuse, some only write zeros, and some free more than a page or nothing.
    So one of two pages is removed, and what the blocks of the file do not show is not believed.
    """
    os.ftruncate(descriptor, 2 * mmap.PAGESIZE)
    try:
        with mmap.mmap(descriptor, 2 * mmap.PAGESIZE) as pages:
            pages[0] = pages[mmap.PAGESIZE] = 1
            pages.flush()  # some file systems count a block when it is written
            before = _blocks(descriptor)
            remove_pages(pages, 0, mmap.PAGESIZE)
            after = _blocks(descriptor)  # before a byte is read: that commits its page again
            return after < before and pages[0] == 0 and pages[mmap.PAGESIZE] == 1
    except OSError:
        return False
    finally:
        os.ftruncate(descriptor, 0)


def _blocks(descriptor: int) -> int:
    """Return the blocks that a file occupies; 0 where the system does not tell."""
    return int(getattr(os.fstat(descriptor), "st_blocks", 0))


def _info(size: int, capabilities: Capability, *, zeroed: bool = True) -> ArenaInfo:
    return ArenaInfo(
        backend="mmap",
        size=size,
        page_size=mmap.PAGESIZE,
        alignment=mmap.PAGESIZE,
        capabilities=capabilities,
        zeroed=zeroed,
        fork_limit=fork_limit() if Capability.FORK in capabilities else 0,
    )


@contextlib.contextmanager
def _closing_on_failure(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    except BaseException:
        os.close(descriptor)
        raise


@contextlib.contextmanager
def _refusal(what: str) -> Iterator[None]:
    """Turn what the system says into an error that names what was asked for."""
    try:
        yield
    except OSError as error:
        raise ArenaError(f"cannot create an mmap arena, {what}: {why(error)}") from error
    except (OverflowError, ValueError) as error:
        raise ArenaError(f"cannot create an mmap arena, {what}: {error}") from error
