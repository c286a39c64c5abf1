"""``kvpool receipts keygen``: a key that ledgers are signed with."""

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
            help="Where the private key goes; the public one gets .pub behind.",
            show_default=False,
        ),
    ],
) -> None:
    """Make an Ed25519 key; files that are there are not overwritten.

    The private key signs and stays with the pool. The public key goes to whoever verifies,
    and not together with the ledger.
    """
    private, public = ed25519().generate_key_files(private_key)
    typer.echo(f"private key  {private} (only you can read it; keep it so)")
    typer.echo(f"public key   {public}")
    typer.echo(f"raw          {ed25519().read_public_key(public)}")
