"""The resources of this process, as the operating system reports them; None if it does not."""

from __future__ import annotations

import gc
import mmap
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Holdings", "pages_present", "run_in_child"]

_PRESENT_OR_SWAPPED = 0b11 << 62


@dataclass(frozen=True, slots=True)
class Holdings:
    """The resources of a process at one moment.

    Parameters
    ----------
    descriptors : int or None
        Open file descriptors.
    mappings : int or None
        Mapped ranges; the kernel may count two adjacent ranges as one.
    mapped_bytes : int or None
        Bytes of all mapped ranges.
    """

    descriptors: int | None
    mappings: int | None
    mapped_bytes: int | None

    @classmethod
    def now(cls) -> Holdings:
        """Collect garbage, then return the resources that are still held."""
        gc.collect()
        statm = _read(Path("/proc/self/statm"))
        maps = _read(Path("/proc/self/maps"))
        return cls(
            descriptors=_open_descriptors(),
            mappings=maps.count("\n") if maps else None,
            mapped_bytes=int(statm.split()[0]) * mmap.PAGESIZE if statm else None,
        )


def pages_present(address: int, nbytes: int) -> int | None:
    """Return how many base pages of a range of this process hold memory.

    Parameters
    ----------
    address, nbytes : int
        Bytes; whole pages.
    """
    entries = nbytes // mmap.PAGESIZE
    try:
        with Path("/proc/self/pagemap").open("rb") as pagemap:
            pagemap.seek(address // mmap.PAGESIZE * 8)
            words = struct.unpack(f"{entries}Q", pagemap.read(entries * 8))
    except OSError:
        return None
    return sum(1 for word in words if word & _PRESENT_OR_SWAPPED)


def run_in_child(act: Callable[[], str]) -> str | None:
    """Run a function in a child that `os.fork` makes, and return the text that it returns.

    Parameters
    ----------
    act : callable
        Whatever it raises becomes the text.

    Returns
    -------
    str or None
        None if the system has no fork.
    """
    if not hasattr(os, "fork"):
        return None
    receiver, sender = os.pipe()
    child = os.fork()
    if not child:
        try:
            text = act()
        except BaseException as error:  # the child ends here, whatever happens
            text = f"{type(error).__name__}: {error}"
        os.write(sender, text.encode()[:4000])
        os._exit(0)
    os.close(sender)
    with os.fdopen(receiver, encoding="utf-8") as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    return text if not status else f"{text} (the child ended with status {status})"


def _open_descriptors() -> int | None:
    for folder in (Path("/proc/self/fd"), Path("/dev/fd")):
        if folder.is_dir():
            return sum(1 for _ in folder.iterdir())
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
