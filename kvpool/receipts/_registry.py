"""The receipt sinks, and the choice of sinks for a manager."""

from __future__ import annotations

import os
from collections.abc import Iterable

from kvpool.errors import InvalidArgumentError
from kvpool.plugins import PluginKind, PluginRegistry
from kvpool.receipts._emitter import ReceiptEmitter
from kvpool.receipts._hookspec import ReceiptSinkSpec
from kvpool.receipts._stream import ReceiptStream
from kvpool.receipts.sink import ReceiptSink, SinkFactory

__all__ = ["Receipts", "create_sink", "open_emitter", "registry"]

Receipts = bool | str | ReceiptSink | Iterable[str | ReceiptSink]
"""What a manager takes for its argument ``receipts``."""

registry = PluginRegistry(
    PluginKind(
        "receipt sink",
        group="kvpool.sinks",
        hook="kvpool_receipt_sink",
        spec=ReceiptSinkSpec,
        provides=SinkFactory,
        builtins={
            "ledger": "kvpool.ledger.plugin",
            "logging": "kvpool.receipts.sinks.log",
            "memory": "kvpool.receipts.sinks.memory",
            "otel": "kvpool.receipts.sinks.otel",
        },
        default="logging",
        disabled_variable="KVPOOL_DISABLED_SINKS",
    )
)


def create_sink(name: str, **options: object) -> ReceiptSink:
    """Return a new sink.

    Parameters
    ----------
    name : str
    **options
        Options of the sink.

    Raises
    ------
    PluginError
        The sink is unknown or cannot be used; see `PluginRegistry.choose`.
    ReceiptError
        The sink cannot be opened.
    """
    return registry.choose(name).create(**options)


def open_emitter(receipts: Receipts) -> ReceiptEmitter | None:
    """Return what makes and delivers the receipts of one manager; None if they are off.

    Parameters
    ----------
    receipts : bool, str, ReceiptSink, or some of the latter two
        True for the sinks that ``$KVPOOL_RECEIPTS`` names, separated by commas, or else for
        ``"logging"``; False for none; or sinks and names of sinks. ``KVPOOL_RECEIPTS=0``
        turns receipts off, whatever is given here.

    Raises
    ------
    PluginError
        A sink is unknown or cannot be used.
    ReceiptError
        A sink cannot be opened.
    InvalidArgumentError
        `receipts` holds what is neither a sink nor the name of one.

    Notes
    -----
    After an error, sinks that were opened by name are closed again.
    """
    configured = os.environ.get("KVPOOL_RECEIPTS", "").strip()
    if receipts is False or configured == "0":
        return None
    if receipts is True:
        names = (name.strip() for name in configured.split(","))
        receipts = [name for name in names if name not in {"", "1"}] or [str(registry.kind.default)]
    elif isinstance(receipts, (str, ReceiptSink)):
        receipts = [receipts]
    return ReceiptEmitter(ReceiptStream(_open_all(receipts)))


def _open_all(chosen: Iterable[str | ReceiptSink]) -> list[ReceiptSink]:
    try:
        wanted = iter(chosen)
    except TypeError:
        raise InvalidArgumentError(
            f"receipts must be True, False, a sink, its name, or several of those, not {chosen!r}"
        ) from None
    opened: list[ReceiptSink] = []
    by_name: list[ReceiptSink] = []
    try:
        for one in wanted:
            if isinstance(one, str):
                by_name.append(one := create_sink(one))
            if not isinstance(one, ReceiptSink):
                raise InvalidArgumentError(
                    f"receipts {chosen!r} must be sinks and names of sinks, unlike {one!r}"
                )
            opened.append(one)
    except BaseException:
        for sink in by_name:
            sink.close()
        raise
    return opened
