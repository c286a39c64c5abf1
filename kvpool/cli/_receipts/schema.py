"""``kvpool receipts schema``: print the JSON Schema of the receipts."""

from __future__ import annotations

import typer

from kvpool.receipts.schema import schema_text

__all__ = ["schema"]


def schema() -> None:
    """Print the JSON Schema of the receipts."""
    typer.echo(schema_text(), nl=False)
