"""Folders of models that are made once, kept in the cache of the user, and checked before use."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import platformdirs
import xxhash
from filelock import FileLock, Timeout

__all__ = ["MANIFEST", "cache_directory", "is_whole", "made_once"]

MANIFEST = "kvpool.json"
"""The last file that is written to a folder. It names what the folder was made from, and has the
size and the hash of each other file."""

_AT_ONCE = 1 << 22  # bytes of a file in memory while it is hashed


def cache_directory() -> Path:
    """Return the directory for what kvpool keeps on disk and can make again.

    It is ``$KVPOOL_CACHE``, or the cache directory of the user, such as ``~/.cache/kvpool``.
    """
    chosen = os.environ.get("KVPOOL_CACHE")
    return Path(chosen) if chosen else platformdirs.user_cache_path("kvpool", appauthor=False)


def made_once(
    folder: Path, source: str, make: Callable[[Path], None], on_wait: Callable[[], object]
) -> None:
    """Make a folder, unless it is there and whole.

    Parameters
    ----------
    folder : Path
    source : str
        What the folder is made from. One that was made from something else is made anew.
    make : callable
        Writes the files into the directory that it is given.
    on_wait : callable
        Is called if another process is making the folder, before the wait for that process.

    Raises
    ------
    OSError
        The folder cannot be written.

    Notes
    -----
    The files are written beside the folder, which then appears under its name in one step. A
    lock lets one process at a time write.
    """
    if is_whole(folder, source):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name(f"{folder.name}.lock"), on_wait):
        if is_whole(folder, source):  # another process made it meanwhile
            return
        for left in folder.parent.glob(f"{folder.name}.part-*"):  # of a process that was ended
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(
            prefix=f"{folder.name}.part-", dir=folder.parent, ignore_cleanup_errors=True
        ) as directory:
            part = Path(directory) / folder.name
            part.mkdir()
            make(part)
            manifest = {"source": source, "files": _fingerprints(part)}
            (part / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
            if folder.exists():
                shutil.rmtree(folder)
            part.rename(folder)


def is_whole(folder: Path, source: str) -> bool:
    """Return whether a folder was made from a source, and has every file as it was written."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return bool(manifest == {"source": source, "files": _fingerprints(folder)})
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def _locked(path: Path, on_wait: Callable[[], object]) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        on_wait()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fingerprints(folder: Path) -> dict[str, list[object]]:
    """Return the size and the hash of each file in a folder, except for the manifest."""
    paths = sorted(path for path in folder.iterdir() if path.name != MANIFEST)
    return {path.name: [path.stat().st_size, _hash(path)] for path in paths}


def _hash(path: Path) -> str:
    state = xxhash.xxh3_128()
    with path.open("rb") as file:
        for data in iter(partial(file.read, _AT_ONCE), b""):
            state.update(data)
    return state.hexdigest()
