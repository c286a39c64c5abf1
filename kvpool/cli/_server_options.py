"""Options of the commands that read the metrics of a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kvpool.cli._keys import VARIABLE, keys_of
from kvpool.cli._options import with_default
from kvpool.cli._scrape import metrics_url

__all__ = ["ApiKeyFileOption", "first_key", "server_address"]

ApiKeyFileOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help=with_default("File with a key of the server.", f"${VARIABLE}"),
    ),
]


def server_address(text: str) -> str:
    """Return the address of the metrics of a server.

    Raises
    ------
    typer.BadParameter
        The text is not the address of an HTTP server.
    """
    try:
        return metrics_url(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def first_key(file: Path | None) -> str | None:
    """Return the first key of a file or of the environment: any key of a server will do.

    Raises
    ------
    typer.BadParameter
        The file cannot be read, or no server has such a key.
    """
    key = next(iter(keys_of((), file)), None)
    if key is not None and not (key.isascii() and key.isprintable()):
        raise typer.BadParameter(
            "the key has a character that is not printable ASCII, so that no server has it",
            param_hint=f"--api-key-file or ${VARIABLE}",
        )
    return key
