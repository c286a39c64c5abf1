"""Creation of arenas over memory or over a file; after a failure nothing is left."""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from kvpool.arena import ArenaInfo, Capability, ForkLimits
from kvpool.descriptors import Descriptor
from kvpool.errors import ArenaError, InvalidOptionError
from kvpool_mmap.arena import FULL, MmapArena, remove_pages
from kvpool_mmap.errors import why
from kvpool_mmap.file import ArenaFile, open_locked, require_private
from kvpool_mmap.mapping import KEEPS_DESCRIPTOR, NO_RESERVE, map_shared

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

_log = logging.getLogger(__name__)


def sparse_size(options: Mapping[str, object]) -> int:
    """Return up to which size an arena takes memory or disk only where it is touched.

    Notes
    -----
    For a path this tries, on a file without a name in the same folder, whether pages can be
    given back there. If not, it returns 0 and logs a warning.
    """
    if sys.platform != "linux" or options.get("reuse"):
        return 0
    path = options.get("path")
    if path is None:
        return SPARSE_MEMORY
    folder = _checked_path(path).resolve().parent
    if not folder.is_dir():
        return SPARSE_FILE  # `create` says what is wrong
    if _neighbour_gives_pages_back(folder, folder.stat().st_dev):
        return SPARSE_FILE
    _log.warning(
        "the file system of %s does not give single pages back: "
        "a pool there counts whole blocks, and copies instead of forking",
        folder,
    )
    return 0


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
        `path` is not a path, or `reuse` is not a bool or comes without a path.
    ArenaError
        The file has content without `reuse`, has another size, is in use by another arena,
        has content that other users may read or write, or the system refused.

    Notes
    -----
    On Linux, memory is a memfd: a file in memory, which can give pages back and can be mapped
    again. An interpreter that was built for an old C library lacks it; private anonymous memory
    can give pages back too.

    A file has one arena at a time. A lock of the operating system sees to that; the lock ends
    with the last view over the arena, or with the process.

    A file takes disk space when its pages are committed. On Linux, `MmapArena.commit` fails if
    the disk has no room. Touching a page that was not committed ends the process (SIGBUS) then,
    as with every sparse mapping.
    """
    if not isinstance(reuse, bool):
        raise InvalidOptionError(f"reuse must be True or False, got {reuse!r}")
    if path is None:
        if reuse:
            raise InvalidOptionError("reuse=True is for a file: give its path too")
        return _create_in_memory(size)
    return _create_in_file(size, _checked_path(path), reuse=reuse)


def _checked_path(path: object) -> Path:
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise InvalidOptionError(f"path must be the path of a file, got {path!r}")
    name = os.fspath(path)
    if not isinstance(name, str) or "\0" in name:
        raise InvalidOptionError(f"path must be the path of a file, as text, got {path!r}")
    return Path(name)


# -- memory ------------------------------------------------------------------------------


def _create_in_memory(size: int) -> MmapArena:
    with _refusal(f"memory of {size} bytes"):
        if sys.platform == "linux" and hasattr(os, "memfd_create"):
            with _closing_on_failure(ArenaFile(Descriptor(os.memfd_create, "kvpool"))) as file:
                return _map(file, size, _gives_pages_back(file.descriptor))
        # Private, so that a child made by os.fork has its own.
        if sys.platform == "win32":
            mapping = mmap.mmap(-1, size)
        else:
            mapping = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE)
        _leave_out_of_dumps(mapping)
    elastic = Capability.ELASTIC if sys.platform == "linux" else Capability.NONE
    return MmapArena(mapping, _info(size, elastic))


# -- a file ------------------------------------------------------------------------------


def _create_in_file(size: int, path: Path, *, reuse: bool) -> MmapArena:
    with _refusal(f"path={str(path)!r}"):
        file, created = open_locked(path)
        try:
            with _closing_on_failure(file):
                try:
                    return _map_file(file, size, path, reuse=reuse)
                except BaseException:
                    if created and sys.platform != "win32":
                        path.unlink(missing_ok=True)  # while it is locked
                    raise
        except BaseException:
            if created and sys.platform == "win32":
                path.unlink(missing_ok=True)  # which an open file could not be
            raise


def _map_file(file: ArenaFile, size: int, path: Path, *, reuse: bool) -> MmapArena:
    descriptor = file.descriptor
    status = os.fstat(descriptor)
    held = status.st_size
    if not held:
        require_private(descriptor, path)
        try:
            return _map(file, size, _gives_pages_back(descriptor), persistent=True)
        except BaseException:
            os.ftruncate(descriptor, 0)
            raise
    if held != size:
        raise ArenaError(
            f"path={str(path)!r} holds {held} bytes, and the arena is to have {size}; "
            "take the same size, or another path"
        )
    if not reuse:
        raise ArenaError(
            f"path={str(path)!r} holds {held} bytes already: "
            "pass reuse=True to keep them, or take another path"
        )
    require_private(descriptor, path)
    elastic = _neighbour_gives_pages_back(path.resolve().parent, status.st_dev)
    return _map(file, size, elastic, persistent=True, zeroed=False)


def _neighbour_gives_pages_back(folder: Path, device: int) -> bool:
    """Try it on a nameless file in a folder, because no file there is ours to change."""
    try:
        with tempfile.TemporaryFile(dir=folder) as scratch:
            descriptor = scratch.fileno()
            return os.fstat(descriptor).st_dev == device and _gives_pages_back(descriptor)
    except OSError:
        return False


# -- both --------------------------------------------------------------------------------


def _map(
    file: ArenaFile, size: int, elastic: bool, *, persistent: bool = False, zeroed: bool = True
) -> MmapArena:
    os.ftruncate(file.descriptor, size)
    capabilities = Capability.PERSISTENT if persistent else Capability.NONE
    if elastic:
        capabilities |= Capability.ELASTIC | Capability.FORK
    info = _info(size, capabilities, zeroed=zeroed)
    mapping = map_shared(file, size)
    _leave_out_of_dumps(mapping)
    return MmapArena(mapping, info, file)


def _leave_out_of_dumps(mapping: mmap.mmap) -> None:
    """Keep a mapping out of core dumps, which would walk through all its addresses."""
    if sys.platform == "linux":
        mapping.madvise(mmap.MADV_DONTDUMP)


def _gives_pages_back(descriptor: int) -> bool:
    """Try on an empty file whether a removed page reads zero and frees its memory.

    Some file systems refuse, some only write zeros, and some free more than a page or nothing.
    So one of two pages is removed, and what the blocks of the file do not show is not believed.

    Raises
    ------
    OSError
        The file system has no room for two pages.
    """
    if sys.platform != "linux":
        return False
    page, both = mmap.PAGESIZE, 2 * mmap.PAGESIZE
    os.ftruncate(descriptor, both)
    try:
        # Not through the mapping: on a full disk that would end the process.
        os.pwrite(descriptor, b"\1", 0)
        os.pwrite(descriptor, b"\1", page)
        os.fsync(descriptor)  # some file systems count a block when it is written
        before = os.fstat(descriptor).st_blocks
        with mmap.mmap(descriptor, both) as pages:
            remove_pages(pages, 0, page)
        after = os.fstat(descriptor).st_blocks
        kept = os.pread(descriptor, 1, 0) == b"\0" and os.pread(descriptor, 1, page) == b"\1"
    except OSError as error:
        if error.errno in FULL:
            raise
        return False
    finally:
        os.ftruncate(descriptor, 0)
    return after < before and kept


def _info(size: int, capabilities: Capability, *, zeroed: bool = True) -> ArenaInfo:
    forks = Capability.FORK in capabilities
    return ArenaInfo(
        backend="mmap",
        size=size,
        page_size=mmap.PAGESIZE,
        alignment=mmap.PAGESIZE,
        capabilities=capabilities,
        zeroed=zeroed,
        fork_limit=ForkLimits.limit(descriptors=KEEPS_DESCRIPTOR) if forks else 0,
        needs_commit=Capability.PERSISTENT in capabilities and sys.platform == "linux",
    )


@contextlib.contextmanager
def _closing_on_failure(file: ArenaFile) -> Iterator[ArenaFile]:
    try:
        yield file
    except BaseException:
        file.close()
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
