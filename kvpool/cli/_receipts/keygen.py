"""``kvpool receipts keygen``: make a key to sign ledgers with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kvpool._optional_imports import ed25519

__all__ = ["keygen"]


def keygen(
    private_key: Annotated[
        Path,
        typer.Argument(
            help="File for the private key; the public key goes to the same name plus .pub.",
            show_default=False,
        ),
    ],
) -> None:
    """Make an Ed25519 key pair; existing files are not overwritten.

    The private key signs and stays with the pool. Give the public key to those who verify,
    separately from the ledger.
    """
    private, public = ed25519().generate_key_files(private_key)
    typer.echo(f"private key  {private} (readable by you only; keep it secret)")
    typer.echo(f"public key   {public}")
    typer.echo(f"raw          {ed25519().read_public_key(public)}")
