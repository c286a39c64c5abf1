"""Who reaches the server of ``kvpool serve``, and whether it may do without a key."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from kvpool.cli._keys import VARIABLE, is_loopback
from kvpool.cli._models import refuse

__all__ = ["check_exposure", "local_names"]


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
