"""``kvpool chat``: many conversations with a model, their caches in one bounded pool."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from kvpool.cli._chat.book import SessionBook
from kvpool.cli._chat.conversation import Conversation
from kvpool.cli._chat.screen import Screen
from kvpool.cli._interrupts import EXIT_CODE
from kvpool.cli._sizes import format_size, parse_size
from kvpool.errors import KVPoolError
from kvpool.manager import KVCacheManager

if TYPE_CHECKING:
    from kvpool.integrations.chat import ChatModel

__all__ = ["chat"]

DTYPES = ("float32", "float16", "bfloat16")


def _dtype(text: str) -> str:
    if text not in DTYPES:
        raise typer.BadParameter(f"{text!r} is none of {', '.join(DTYPES)}")
    return text


def chat(
    model_dir: Annotated[
        Path | None,
        typer.Argument(
            metavar="MODEL_DIR",
            help="A directory with a causal language model of Hugging Face transformers.",
            show_default=False,
        ),
    ] = None,
    tiny: Annotated[
        bool,
        typer.Option(
            "--tiny",
            help="Make a tiny model with random weights, in MODEL_DIR if that is given and "
            "has none.",
        ),
    ] = False,
    capacity: Annotated[
        int,
        typer.Option(parser=parse_size, metavar="SIZE", show_default="512MiB", help="Of the pool."),
    ] = 512 << 20,
    backend: Annotated[
        str | None, typer.Option(help="Who holds the bytes; by default, `kvpool backends` tells.")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            parser=_dtype,
            metavar="DTYPE",
            help=f"One of {', '.join(DTYPES)}; by default as the model was saved.",
        ),
    ] = None,
    max_context: Annotated[
        int | None,
        typer.Option(
            min=2,
            metavar="TOKENS",
            help="What a session may hold, with room for all of it from the beginning; by "
            "default it grows, as far as the model can attend.",
        ),
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, metavar="TOKENS", help="The longest answer.")
    ] = 256,
    temperature: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="For sampling; 0 takes the likeliest token. By default as the model's own "
            "settings say.",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Makes sampling repeat itself.")] = None,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What every conversation begins with.")
    ] = None,
    history: Annotated[
        Path | None,
        typer.Option(help="A file that keeps the lines you type for the next time."),
    ] = None,
) -> None:
    """Talk with a local model, in many sessions that share one bounded pool.

    A turn computes its new tokens only. A session that the pool evicted is
    computed again when it goes on. /fork branches a session, /sessions shows
    all of them, /help says what else there is. Without a terminal, each line
    is a message or a command, and no prompt is drawn.
    """
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    _check_directory(model_dir, tiny)
    prompts = _extra("kvpool.cli._chat.prompt") if interactive else None
    with KVCacheManager(capacity, backend) as manager, Screen(interactive=interactive) as screen:
        screen.progress("loading")
        model = _load(model_dir, dtype, seed, temperature, max_context)
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
        if not tiny:
            _refuse("which model? Give MODEL_DIR, or --tiny for one with random weights")
    elif not directory.is_dir() and not (tiny and not directory.exists()):
        _refuse(f"there is no directory {directory}")
    elif not tiny and not (directory / "config.json").is_file():
        _refuse(f"{directory} holds no model: there is no config.json in it")


def _load(
    directory: Path | None,
    dtype: str | None,
    seed: int | None,
    temperature: float | None,
    max_context: int | None,
) -> ChatModel:
    """Return the model, or leave with what is wrong with it."""
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
    """Return a module that needs the extra, or leave with what to install."""
    try:
        return import_module(module)
    except ImportError as error:
        reason = error.__cause__ or error
        _refuse(f'chat needs what is not installed: install "kvpool[chat]" ({reason})')


def _refuse(reason: str) -> NoReturn:
    typer.echo(f"kvpool: {reason}", err=True)
    raise typer.Exit(2)


def _greeting(book: SessionBook) -> str:
    stats, token = book.manager.get_stats(), book.model.layout.bytes_per_token
    tokens = stats.total_capacity // token
    return (
        f"{book.model.name}: a token of its cache has {format_size(token)}, the pool "
        f"{format_size(stats.total_capacity)}: room for {tokens:,} tokens. /help tells more."
    )


def _line_of_stdin() -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line
