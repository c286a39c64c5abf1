"""The resources of this process, as the operating system reports them; None if it does not."""

from __future__ import annotations

import gc
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Holdings", "pages_present"]

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
