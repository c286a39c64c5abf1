"""The sink ``ledger``: receipts in a file that a stranger can verify."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from kvpool.hookspecs import hookimpl
from kvpool.ledger._sink import LedgerSink
from kvpool.receipts.errors import LedgerOptionError
from kvpool.receipts.sink import SinkFactory

__all__ = ["kvpool_receipt_sink", "open_ledger"]


def open_ledger(path: str | Path | None = None, **options: Any) -> LedgerSink:
    """Open a ledger; what is not given comes from the environment.

    Parameters
    ----------
    path : path, optional
        By default ``$KVPOOL_LEDGER``.
    **options
        Of `LedgerSink`. By default ``$KVPOOL_LEDGER_KEY`` is the key, and a
        ``$KVPOOL_LEDGER_REDACT`` of 1 redacts.

    Raises
    ------
    LedgerError
        No path is given, or the ledger cannot be opened.
    """
    chosen = path or os.environ.get("KVPOOL_LEDGER")
    if not chosen:
        raise LedgerOptionError("the sink ledger needs a path: an option, or KVPOOL_LEDGER")
    options.setdefault("key", os.environ.get("KVPOOL_LEDGER_KEY") or None)
    options.setdefault("redact", os.environ.get("KVPOOL_LEDGER_REDACT", "").strip() == "1")
    return LedgerSink(chosen, **options)


@hookimpl
def kvpool_receipt_sink() -> SinkFactory:
    """Describe the sink to kvpool."""
    return SinkFactory(
        create=open_ledger,
        summary="a file with hashes and signatures, for `kvpool receipts verify`",
        options={
            "path": "the first file; by default $KVPOOL_LEDGER",
            "key": "PEM file that signs; by default $KVPOOL_LEDGER_KEY, else nothing is signed",
            "redact": "session ids as salted digests; by default if $KVPOOL_LEDGER_REDACT is 1",
            "salt": "32 bytes; by default those in the file <path>.salt",
            "checkpoint_every": "receipts from one checkpoint to the next; by default 1,000",
            "rotate_at": "bytes after which another file is begun; by default never",
            "fsync": "when to wait for the disk: checkpoint (default), always, never",
        },
    )
