"""The storage backends, and the choice of one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from kvpool.arena import ArenaBackend
from kvpool.hookspecs import ArenaBackendSpec
from kvpool.plugins import PluginKind, PluginRegistry

if TYPE_CHECKING:
    from kvpool.arena import Arena

__all__ = ["create_arena", "registry"]

_DEFAULT = "mmap" if sys.platform == "linux" else "numpy"
"""Elsewhere no arena shares pages or gives them back, and `numpy` is the simplest one."""

registry = PluginRegistry(
    PluginKind(
        "backend",
        group="kvpool.backends",
        hook="kvpool_arena_backend",
        spec=ArenaBackendSpec,
        provides=ArenaBackend,
        builtins={"ctypes": "kvpool_ctypes", "mmap": "kvpool_mmap", "numpy": "kvpool_numpy"},
        default=_DEFAULT,
        choice_variable="KVPOOL_BACKEND",
        disabled_variable="KVPOOL_DISABLED_BACKENDS",
    )
)
"""The backends of this process."""


def create_arena(size: int, backend: str | None = None, **options: object) -> Arena:
    """Create an arena with a backend.

    Parameters
    ----------
    size : int
        Bytes, at least 1.
    backend : str, optional
        Name of the backend; by default the environment variable ``KVPOOL_BACKEND`` chooses, or
        else ``"mmap"`` is used on Linux, and ``"numpy"`` on other systems.
    **options
        Options of the backend; ``kvpool backends`` lists them.

    Returns
    -------
    Arena

    Raises
    ------
    PluginError
        The backend is unknown or cannot be used; see `PluginRegistry.choose`.
    InvalidSizeError
        `size` is not an integer of at least 1.
    InvalidOptionError
        The backend has no such option, or the option does not accept the value.
    ArenaError
        The operating system refused to create the arena.

    Examples
    --------
    >>> arena = create_arena(4096, "numpy")
    >>> arena.buffer[0]
    0
    >>> arena.close()
    """
    return registry.choose(backend).create(size, **options)
