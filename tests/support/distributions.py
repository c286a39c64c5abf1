"""Real distributions in a folder, as an installer leaves them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["backend_source", "install"]


def install(
    folder: Path,
    distribution: str,
    entries: Mapping[str, str],
    modules: Mapping[str, str] | None = None,
    *,
    version: str = "1.0",
    group: str = "kvpool.backends",
) -> None:
    """Install a distribution into a folder of the path.

    Parameters
    ----------
    folder : Path
        Made if it is missing.
    distribution, version : str
        For the metadata.
    entries : mapping of str to str
        Module, or module and attribute, for each plugin name.
    modules : mapping of str to str
        Source for each module name.
    group : str
        Entry-point group of the plugins.
    """
    info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
    (info / "METADATA").write_text(metadata, encoding="utf-8")
    lines = [f"[{group}]", *(f"{name} = {target}" for name, target in entries.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    for name, source in (modules or {}).items():
        (folder / f"{name}.py").write_text(source, encoding="utf-8")
    importlib.invalidate_caches()


def backend_source(name: str) -> str:
    """Return the source of a working backend, whose arenas are those of numpy."""
    return f"""
from kvpool.arena import ArenaBackend, Capability
from kvpool.hookspecs import hookimpl
from kvpool_numpy.arena import create

@hookimpl
def kvpool_arena_backend():
    return ArenaBackend({name!r}, create, Capability.NONE, "a backend of a test")
"""
