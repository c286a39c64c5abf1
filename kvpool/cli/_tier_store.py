"""The tiers of a command that serves from a pool: its option, its store, and the end of both."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, TypeVar

import typer

from kvpool.cli._interrupts import EXIT_CODE
from kvpool.cli._models import refuse
from kvpool.cli._options import POOL
from kvpool.cli._sizes import format_size
from kvpool.cli._work_bar import WorkBar
from kvpool.errors import KVPoolError
from kvpool.manager import KVCacheManager
from kvpool.tiers import Level, TierStore, open_level, without_secrets

__all__ = ["TierOption", "pool_over_tiers"]

Store = TypeVar("Store", bound=TierStore)

TierOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="URL",
        rich_help_panel=POOL,
        show_default=False,
        help="Tier to store keys and values in and load them from, such as "
        "disk:/path?capacity=20GiB. Several are asked in their order, the nearest first.",
    ),
]


@contextlib.contextmanager
def pool_over_tiers(
    make_store: Callable[[Sequence[Level]], Store],
    urls: Sequence[str],
    capacity: int,
    backend: str | None,
    drain_seconds: Callable[[], float],
) -> Iterator[tuple[KVCacheManager, Store | None]]:
    """Open a pool and the tiers below it for a ``with`` block; exit if a tier cannot be opened.

    At the end of the block, what waits for the tiers is written, with a progress bar.

    Parameters
    ----------
    make_store : callable
        Returns a store of the tiers.
    urls : sequence of str
        Of the tiers. Without any the store is None.
    capacity : int
    backend : str or None
    drain_seconds : callable
        Returns how long that writing may take; called at the end of the block.

    Raises
    ------
    typer.Exit
        Code 2: a tier cannot be opened. Code 130: Ctrl-C stopped the writing.
    """
    store = _opened(make_store, urls) if urls else None
    try:
        with KVCacheManager(capacity, backend, tiers=store) as manager:
            try:
                yield manager, store
            finally:
                if store is not None:
                    _drain(manager, store, drain_seconds())
    finally:
        if store is not None:
            store.close(0.0)


def _opened(make_store: Callable[[Sequence[Level]], Store], urls: Sequence[str]) -> Store:
    """Return a store of tiers, or exit with the URL of the first one that cannot be opened."""
    with contextlib.ExitStack() as undo:
        levels: list[Level] = []
        for url in urls:
            try:
                level = open_level(url)
            except KVPoolError as error:
                refuse(f"cannot open the tier {without_secrets(url)}: {error}")
            undo.callback(level.breaker.close)
            levels.append(level)
        store = make_store(levels)
        undo.pop_all()
    return store


def _drain(manager: KVCacheManager, store: TierStore, seconds: float) -> None:
    """Close a manager, and write what waits for its tiers, for some seconds at most."""
    try:
        with WorkBar("storing", text="{written} in tiers", written=format_size(0)) as bar:
            manager.close(
                seconds, lambda done, total: bar.show(done, total, written=format_size(done))
            )
    except KeyboardInterrupt:
        _tell_lost(store)
        raise typer.Exit(EXIT_CODE) from None
    _tell_lost(store)


def _tell_lost(store: TierStore) -> None:
    left = sum(level.queued for level in store.levels)
    if left:
        typer.echo(
            f"kvpool: {format_size(left)} were not written to the tiers in time: they will be "
            "computed again",
            err=True,
        )
