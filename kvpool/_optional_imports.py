"""What needs an optional dependency is in a module of its own, imported when it is needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from kvpool.errors import MissingExtraError

__all__ = ["ed25519", "load"]


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
