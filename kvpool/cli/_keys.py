"""The keys of a server: where commands find them, and which servers no other machine reaches."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path

import typer

__all__ = ["VARIABLE", "is_loopback", "keys_of"]

VARIABLE = "KVPOOL_API_KEY"


def keys_of(given: Sequence[str], file: Path | None) -> list[str]:
    """Return the keys of the command line, of a file with one on each line, and of the environment.

    Those of the environment count only if no others are given.
    """
    keys = list(given)
    if file is not None:
        try:
            found = file.read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise typer.BadParameter(
                f"cannot read {file}: {error}", param_hint="--api-key-file"
            ) from error
        if not found:
            raise typer.BadParameter(f"{file} has no key", param_hint="--api-key-file")
        keys += found
    return keys or os.environ.get(VARIABLE, "").split()


def is_loopback(host: str) -> bool:
    """Return whether only programs of this machine reach a server at a host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
