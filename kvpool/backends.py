"""The backends that are installed, and the choice of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvpool.arena import ArenaBackend
from kvpool.hookspecs import ArenaBackendSpec
from kvpool.plugins import PluginRegistry

if TYPE_CHECKING:
    from kvpool.arena import Arena

__all__ = ["create_arena", "registry"]

registry: PluginRegistry[ArenaBackend] = PluginRegistry(
    "backend",
    group="kvpool.backends",
    hook="kvpool_arena_backend",
    spec=ArenaBackendSpec,
    provides=ArenaBackend,
    default="numpy",
    choice_variable="KVPOOL_BACKEND",
    disabled_variable="KVPOOL_DISABLED_BACKENDS",
)
"""The backends of this process."""


def create_arena(size: int, backend: str | None = None, **options: object) -> Arena:
    """Create an arena with the backend of a name.

    Parameters
    ----------
    size : int
        Bytes, at least 1.
    backend : str, optional
        Name of the backend; without it the environment variable ``KVPOOL_BACKEND`` chooses,
        and without that it is ``"numpy"``.
    **options
        Options of the backend; ``kvpool backends`` lists them.

    Returns
    -------
    Arena

    Raises
    ------
    PluginError
        There is no such backend, or it cannot be used; see `PluginRegistry.choose`.
    InvalidSizeError
        `size` is not an integer of at least 1.
    InvalidOptionError
        The backend lacks an option of that name, or the option cannot take the value.
    ArenaError
        The system refused.

    Examples
    --------
    >>> arena = create_arena(4096, "numpy")
    >>> arena.buffer[0]
    0
    >>> arena.close()
    """
    return registry.choose(backend).create(size, **options)
