"""Names of a package that are imported when they are first used. Importing this takes no time."""

from __future__ import annotations

import importlib
import sys

TYPE_CHECKING = False
"""True for a type checker. The module typing takes longer to import than all that is here."""

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

__all__ = ["TYPE_CHECKING", "on_first_use"]


def on_first_use(
    front: str, homes: Mapping[str, str], modules: Collection[str] = ()
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package whose names are imported when used.

    Parameters
    ----------
    front : str
        The ``__name__`` of the package.
    homes : mapping of str to str
        The module of each name in its ``__all__``.
    modules : collection of str
        Modules of the package that are attributes of it before they are imported.
    """

    def find(name: str) -> object:
        if name in modules:
            return importlib.import_module(f"{front}.{name}")
        if name not in homes:
            raise AttributeError(f"module {front!r} has no attribute {name!r}")
        exported: object = getattr(importlib.import_module(homes[name]), name)
        importlib.import_module("kvpool._exports").publish_as(front, exported)
        vars(sys.modules[front])[name] = exported  # the next use finds it without this function
        return exported

    def names() -> list[str]:
        return sorted({*vars(sys.modules[front]), *homes, *modules})

    return find, names
