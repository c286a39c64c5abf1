"""What this process has open under a name."""

from __future__ import annotations

import gc
from pathlib import Path

__all__ = ["arenas", "assert_nothing_is_left", "mapped", "open_files"]


def open_files(part: str) -> list[str]:
    """Return the targets of the open descriptors whose name contains `part`."""
    targets = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:  # the descriptor that lists the folder
            continue
        if part in target:
            targets.append(target)
    return targets


def mapped(part: str) -> list[str]:
    """Return the mapped ranges of files whose name contains `part`."""
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if part in line]


def arenas() -> list[str]:
    """Return what is mapped and open of arenas in memory."""
    return mapped("memfd:kvpool") + open_files("memfd:kvpool")


def assert_nothing_is_left() -> None:
    """Check that no arena in memory is mapped or open."""
    gc.collect()
    assert arenas() == []
