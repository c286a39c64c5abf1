"""The keys that ``kvpool serve`` accepts, and whether it may do without."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path

import typer

from kvpool.cli._models import refuse

__all__ = ["check_exposure", "keys_of", "local_names"]

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


def local_names(host: str) -> list[str]:
    """Return the names by which programs of this machine call a server at a host; else nothing.

    A web page that a browser of this machine shows could have the browser call the server under a
    name of its own, which it lets lead to this machine, and read the answers.
    """
    return ["localhost", "127.0.0.1", "[::1]", "::1", host] if is_loopback(host) else []


def check_exposure(host: str, keys: Sequence[str], insecure: bool) -> None:
    """Exit if other machines would be served without a key, unless that is wanted; then warn."""
    if keys or is_loopback(host):
        return
    if not insecure:
        refuse(
            f"--host {host} lets other machines use the model and see the metrics; pass "
            f"--api-key-file, set {VARIABLE}, or pass --insecure if everyone there may"
        )
    typer.echo(
        f"kvpool: WARNING: everyone who can reach {host} may use the model: there is no key",
        err=True,
    )
