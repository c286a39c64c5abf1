"""The backend ``ctypes``: libc's mmap with huge pages, locking, prefault and NUMA; Linux only.

On another system the package imports, reports no capabilities, and refuses to create.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NoReturn

from kvpool.arena import ArenaBackend, Capability
from kvpool.errors import ArenaError
from kvpool.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

if sys.platform == "linux":
    from kvpool_ctypes.create import create
    from kvpool_ctypes.system import capabilities, sparse_size
else:

    def create(size: int, **options: object) -> NoReturn:
        """Refuse: the calls of this backend are Linux's."""
        raise ArenaError(
            f"cannot create a ctypes arena of {size} bytes (options {options}): the backend is "
            f"for Linux, this system is {sys.platform}; take 'mmap' or 'numpy'"
        )

    def capabilities() -> Capability:
        """Return none."""
        return Capability.NONE

    def sparse_size(_options: Mapping[str, object]) -> int:
        """Return 0: there are no arenas."""
        return 0


__all__ = ["kvpool_arena_backend"]


@hookimpl
def kvpool_arena_backend() -> ArenaBackend:
    """Describe the backend."""
    return ArenaBackend(
        name="ctypes",
        factory=create,
        capabilities=capabilities(),
        summary="libc's mmap with huge pages, locking, prefault and NUMA binding; Linux only",
        options={
            "huge_pages": "none (default), transparent (where the system has them), explicit "
            "(reserved ones of 2 MiB)",
            "mlock": "whether pages stay in RAM once they are there (default: False)",
            "prefault": "whether all pages are there from the start (default: False)",
            "numa_node": "number of the node whose memory the pages come from (default: any)",
        },
        sparse=sparse_size,
    )
