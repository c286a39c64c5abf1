"""``kvpool chat``: chat with a local model, in many sessions that share one pool."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvpool.cli._chat.book import FIRST_NAME, SessionBook
from kvpool.cli._chat.conversation import Conversation
from kvpool.cli._chat.keeping import SessionKeeper
from kvpool.cli._chat.resume_option import ResumeOption
from kvpool.cli._chat.resumption import show_resumed
from kvpool.cli._chat.screen import Screen
from kvpool.cli._chat.session import ChatSession
from kvpool.cli._chat.store import ChatStore
from kvpool.cli._interrupts import EXIT_CODE
from kvpool.cli._models import (
    DtypeOption,
    ModelArgument,
    TinyOption,
    check_directory,
    extra,
    load_model,
    refuse,
)
from kvpool.cli._options import (
    RESERVED_TOKENS,
    BackendOption,
    CapacityOption,
    with_default,
)
from kvpool.cli._sizes import format_size
from kvpool.cli._tier_store import TierOption, pool_over_tiers
from kvpool.errors import KVPoolError

if TYPE_CHECKING:
    from kvpool.integrations.chat import ChatModel

__all__ = ["chat"]

_DRAIN_SECONDS = 30.0  # at the end, for what waits to be written to the tiers


def chat(
    model_dir: ModelArgument = None,
    tiny: TinyOption = False,
    capacity: CapacityOption = 512 << 20,
    backend: BackendOption = None,
    tier: TierOption = None,
    resume: ResumeOption = None,
    dtype: DtypeOption = None,
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

    With --tier, the sessions are kept by their names after each answer, and
    a later chat goes on with --resume: nothing is computed again.
    """
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    if resume is not None and not tier:
        refuse("--resume needs the tiers that the session is kept in: pass --tier URL")
    check_directory(model_dir, tiny)
    prompts = extra("kvpool.cli._chat.prompt", "chat") if interactive else None
    tiers = pool_over_tiers(ChatStore, tier or (), capacity, backend, lambda: _DRAIN_SECONDS)
    with tiers as (manager, store), Screen(interactive=interactive) as screen:
        screen.progress("loading")
        options = {"temperature": temperature, "max_context_length": max_context}
        model = _load(model_dir, tiny, dtype, seed, screen, **options)
        keeper = resumed = None
        if store is not None:
            keeper = SessionKeeper(store, model.identity(manager), model.name)
            resumed = _found(keeper, resume, screen)
        book = SessionBook(manager, model, system, max_context, keeper=keeper, resumed=resumed)
        screen.end_answer()
        screen.remark(_greeting(book))
        if resumed is not None:
            show_resumed(book, screen)
        elif (name := book.current.name) != FIRST_NAME:
            screen.note(
                f"the tiers keep {FIRST_NAME} of an earlier chat, which --resume {FIRST_NAME} goes "
                f"on with: this session is {name}"
            )
        talk = Conversation(book, screen, max_new_tokens)
        talk.run(prompts.Prompt(book, history).read_line if prompts else _line_of_stdin)
    if talk.interrupted:
        raise typer.Exit(EXIT_CODE)
    if screen.failures and not interactive:
        raise typer.Exit(1)


def _load(
    directory: Path | None,
    tiny: bool,
    dtype: str | None,
    seed: int | None,
    screen: Screen,
    **options: Any,
) -> ChatModel:
    """Return the model, or exit with the reason why it cannot be loaded."""
    tell = screen.progress if screen.interactive else screen.note
    model = load_model(directory, tiny, dtype, "chat", tell, screen.end_answer, **options)
    if seed is not None:
        extra("kvpool.integrations._chat.chat_model", "chat").seed(seed)
    return model


def _found(keeper: SessionKeeper, name: str | None, screen: Screen) -> ChatSession | None:
    """Return the session to resume, or exit with the reason why there is none."""
    if name is None:
        return None
    try:
        return keeper.find(name)
    except KVPoolError as error:
        screen.end_answer()
        refuse(str(error))


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
