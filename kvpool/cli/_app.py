"""The command ``kvpool``; each subcommand has its own module."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from kvpool.__about__ import __version__
from kvpool.cli._backends import backends
from kvpool.cli._chat import ChatCommand, chat
from kvpool.cli._demo import demo
from kvpool.cli._help import Command, Group, brief_of, help_of
from kvpool.cli._memory_map import memory_map
from kvpool.cli._receipts import receipts
from kvpool.cli._replay import replay
from kvpool.cli._serve import serve
from kvpool.cli._size import size
from kvpool.cli._tiers import fsck, gc, sessions, tiers
from kvpool.cli._top import top
from kvpool.descriptors import Descriptor
from kvpool.errors import (
    InvalidArgumentError,
    InvalidLayoutError,
    InvalidOptionError,
    InvalidSizeError,
    InvalidTierError,
    InvalidTtlError,
    KVPoolError,
    UnknownPluginError,
    UnsupportedError,
)

__all__ = ["app", "run"]

_WRONG_VALUES = (
    InvalidArgumentError,
    InvalidLayoutError,
    InvalidOptionError,
    InvalidSizeError,
    InvalidTierError,
    InvalidTtlError,
    UnknownPluginError,
    UnsupportedError,
)
"""What is raised for a value of an option that is not accepted, beside typer's own errors."""

_COMPLETION = "_KVPOOL_COMPLETE"
"""The variable by which the completion of a shell asks."""

app = typer.Typer(
    name="kvpool",
    cls=Group,
    help="A bounded memory pool for LLM KV caches: replay traces, serve models, verify ledgers.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kvpool {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Accept the options that stand before a subcommand."""


_COMMANDS: dict[str, Callable[..., None]] = {
    "backends": backends,
    "chat": chat,
    "demo": demo,
    "fsck": fsck,
    "gc": gc,
    "map": memory_map,
    "replay": replay,
    "serve": serve,
    "sessions": sessions,
    "size": size,
    "tiers": tiers,
    "top": top,
}
_CLASSES: dict[str, type[Command]] = {"chat": ChatCommand}
for _name, _command in _COMMANDS.items():
    app.command(
        _name,
        cls=_CLASSES.get(_name, Command),
        help=help_of(_command),
        short_help=brief_of(_command),
    )(_command)
app.add_typer(receipts)


def run() -> None:
    """Run the command. A `KVPoolError` becomes one line on standard error.

    The exit code is 2 if a value of the command line is not accepted, and otherwise 1. The same
    goes for an error of the system, such as a full disk behind standard output: its code is 1.
    """
    if _COMPLETION in os.environ:
        os.environ["COLUMNS"] = "1000"  # typer wraps descriptions; shells offer each line as a word
    try:
        app()
    except KVPoolError as error:
        typer.echo(f"kvpool: {error}", err=True)
        sys.exit(2 if isinstance(error, _WRONG_VALUES) else 1)
    except OSError as error:
        # What is still buffered cannot be written either; the interpreter would try, and complain.
        with Descriptor(os.open, os.devnull, os.O_WRONLY) as nowhere:
            os.dup2(nowhere.number, sys.stdout.fileno())
        typer.echo(f"kvpool: {error}", err=True)
        sys.exit(1)
