"""What this Linux offers: huge pages, nodes, limits; read when asked, never kept."""

from __future__ import annotations

import platform
import re
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kvpool.arena import Capability
from kvpool_ctypes import libc

if TYPE_CHECKING:
    from collections.abc import Mapping

assert sys.platform == "linux", "imported on Linux only"  # type checkers rely on it too

__all__ = [
    "EXPLICIT_HUGE_PAGE",
    "SPARSE_SIZE",
    "available_memory",
    "capabilities",
    "free_huge_pages",
    "lock_limit",
    "nodes",
    "sparse_size",
    "transparent_huge_page",
    "transparent_refusal",
]

EXPLICIT_HUGE_PAGE = 2 << 20
"""Bytes of a reserved huge page."""

SPARSE_SIZE = 32 << 40
"""Bytes: a quarter of what the address space of a process has on common machines."""

_MM = Path("/sys/kernel/mm")
_RESERVED = _MM / "hugepages" / f"hugepages-{EXPLICIT_HUGE_PAGE >> 10}kB"
_TRANSPARENT = _MM / "transparent_hugepage"
_NODES = Path("/sys/devices/system/node/has_memory")


def capabilities() -> Capability:
    """Return what arenas can have on this system, each with the fitting options."""
    found = Capability.ELASTIC | Capability.FORK | Capability.PREFAULT
    if free_huge_pages() or not transparent_refusal():
        found |= Capability.HUGE_PAGES
    if lock_limit():
        found |= Capability.LOCKED
    if nodes():
        found |= Capability.NUMA
    return found


def free_huge_pages() -> int:
    """Return how many reserved huge pages can be mapped now."""
    counts = [_read(_RESERVED / f"{name}_hugepages") for name in ("free", "resv")]
    free, promised = (int(count) if count else 0 for count in counts)
    return max(0, free - promised)


def transparent_huge_page() -> int:
    """Return the bytes of a transparent huge page."""
    return int(_read(_TRANSPARENT / "hpage_pmd_size") or EXPLICIT_HUGE_PAGE)


def transparent_refusal() -> str:
    """Say why a memfd gets no transparent huge pages when it asks; empty if it does.

    Kernels since 6.8 have a setting for each page size, which may say ``inherit``.
    """
    general = _TRANSPARENT / "shmem_enabled"
    special = _TRANSPARENT / f"hugepages-{transparent_huge_page() >> 10}kB" / "shmem_enabled"
    decisive = special if _selected(special) not in {"", "inherit"} else general
    setting = _selected(decisive)
    if setting in {"always", "within_size", "advise", "force"}:
        return ""
    return f"{decisive} says {setting!r}" if setting else f"there is no {decisive}"


def lock_limit() -> int:
    """Return how many bytes this process may lock."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def sparse_size(options: Mapping[str, object]) -> int:
    """Return up to which size an arena takes memory only where it is touched."""
    committed_at_once = options.get("prefault") or options.get("huge_pages") == "explicit"
    # The limit on locked memory counts the whole arena, touched or not.
    return 0 if committed_at_once or options.get("mlock") else SPARSE_SIZE


def available_memory() -> int | None:
    """Return the bytes that could be committed without swapping; None if unknown."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", _read(Path("/proc/meminfo")), re.MULTILINE)
    return int(found[1]) << 10 if found else None


def nodes() -> tuple[int, ...]:
    """Return the NUMA nodes that have memory; none where pages cannot be bound to nodes."""
    if platform.machine() not in libc.NUMA_SYSCALLS:
        return ()
    found: list[int] = []
    for part in _read(_NODES).strip().split(","):
        if part:
            first, _, last = part.partition("-")
            found.extend(range(int(first), int(last or first) + 1))
    return tuple(found)


def _selected(path: Path) -> str:
    """Return the word in brackets of a setting such as ``always [never]``."""
    found = re.search(r"\[(\w+)\]", _read(path))
    return found[1] if found else ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""
