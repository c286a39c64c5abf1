"""What needs an optional dependency is in a module of its own, imported when it is needed."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from kvpool.errors import MissingExtraError

__all__ = ["are_installed", "ed25519", "load"]


def are_installed(*modules: str) -> bool:
    """Return whether modules are there. Only the packages around them are imported.

    A folder without Python code does not count, whatever its name.

    Parameters
    ----------
    *modules : str
        Names, with dots for a module of a package.
    """
    return all(_has_code(module) for module in modules)


def _has_code(module: str) -> bool:
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):  # a package around it fails, or it is not a name
        return False
    return spec is not None and spec.origin is not None


def load(module: str, extra: str, purpose: str) -> Any:
    """Import a module.

    Raises
    ------
    MissingExtraError
        What it imports in turn is not installed; the text names the extra.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f'{purpose} needs what is not installed: install "kvpool[{extra}]" ({error})'
        ) from error


def ed25519() -> Any:
    """Return the module `kvpool.ledger.ed25519`.

    Raises
    ------
    MissingExtraError
        The package cryptography is not installed.
    """
    return load("kvpool.ledger.ed25519", "sign", "signing")
