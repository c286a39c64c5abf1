"""`LedgerSink`: receipts into a ledger, a chain of lines that a stranger can verify."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, get_args

from kvpool._optional_imports import ed25519
from kvpool.ledger._lines import Redaction
from kvpool.ledger._redaction import Redactor, keep_salt, read_salt, salt_file
from kvpool.ledger._writer import FsyncPolicy, LedgerWriter
from kvpool.receipts.errors import LedgerError, LedgerOptionError
from kvpool.receipts.sink import ReceiptSink
from kvpool.receipts.types import Receipt

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from kvpool.ledger.ed25519 import Signer

__all__ = ["LedgerSink"]

_log = logging.getLogger(__name__)


class LedgerSink(ReceiptSink):
    """Appends receipts to a ledger: JSON lines, each with the hash of the one before.

    Parameters
    ----------
    path : path
        The first file of the ledger; made, readable by its owner only, if it is missing. An
        existing ledger is continued.
    key : Ed25519PrivateKey or path, optional
        Signs checkpoints and the end; a PEM file as ``kvpool receipts keygen`` writes it.
        Without a key nothing is signed.
    redact : bool, default False
        Write session ids as salted digests.
    salt : bytes, optional
        32 bytes. By default those in ``<path>.salt``, which is made if it is missing: it
        stays with the owner of the ledger.
    checkpoint_every : int, default 1,000
        Receipts from one checkpoint to the next.
    rotate_at : int, optional
        Bytes after which the ledger goes on in another file beside this one. By default never.
    fsync : {"checkpoint", "always", "never"}
        When to wait for the disk. What was emitted survives the end of the process in any
        case; what is not yet on disk does not survive that of the machine.
    copy_of : str, optional
        For a copy of another ledger: the head of that one, 64 hexadecimal digits.

    Raises
    ------
    LedgerLockedError
        The ledger has a writer already.
    DamagedLedgerError
        There is something else in the file.
    LedgerOptionError, SigningKeyError
        An option has a value that it cannot take, or that the ledger was not begun with.
    LedgerError
        The system refuses.
    MissingExtraError
        A key was given, and ``kvpool[sign]`` is not installed.

    Notes
    -----
    `flush` writes a checkpoint, `close` a seal. A ledger without a seal at its end is open: it
    is being written, or its writer was killed, or its end was cut off. The next writer
    moves an unfinished last line to a file beside the ledger, and says so in the ledger.

    *Threads.* All methods may be called by any thread. A process that was forked cannot write
    to the ledger of its parent.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        key: Ed25519PrivateKey | str | Path | None = None,
        redact: bool = False,
        salt: bytes | None = None,
        checkpoint_every: int = 1000,
        rotate_at: int | None = None,
        fsync: FsyncPolicy = "checkpoint",
        copy_of: str | None = None,
    ) -> None:
        self.path = Path(path)
        _require(
            checkpoint_every >= 1, f"checkpoint_every must be at least 1, not {checkpoint_every}"
        )
        _require(
            rotate_at is None or rotate_at >= 1, f"rotate_at must be at least 1, not {rotate_at}"
        )
        _require(fsync in get_args(FsyncPolicy), f"fsync is one of {FsyncPolicy}, not {fsync!r}")
        _require(salt is None or redact, "a salt is for a redacted ledger: it needs redact=True")
        signer: Signer | None = ed25519().Signer(key) if key is not None else None
        self._redactor = Redactor(salt) if salt is not None else None
        self._checkpoint_every, self._rotate_at = checkpoint_every, rotate_at
        self._lock = threading.Lock()
        self._owner = os.getpid()
        open_redaction = self._open_redaction if redact else None
        self._writer: LedgerWriter | None = LedgerWriter(
            self.path, signer, open_redaction, fsync, copy_of
        )
        self._head = self._writer.head
        if self._writer.recovered:
            _log.warning("%s", self._writer.recovered)

    @property
    def name(self) -> str:
        """What messages call the sink."""
        return f"ledger {self.path}"

    @property
    def head(self) -> str:
        """Hash of the last line: who knows it can tell later that nothing was cut off."""
        with self._lock:
            return self._writer.head if self._writer else self._head

    def emit(self, receipt: Receipt, /) -> None:
        """Append a receipt.

        Raises
        ------
        LedgerError
            It cannot be written, and the file is as it was; or the ledger is closed.
        """
        if self._redactor:
            receipt = self._redactor.redact(receipt)
        with self._lock:
            writer = self._require_open()
            writer.append_receipt(receipt)
            if writer.since_checkpoint >= self._checkpoint_every:
                writer.checkpoint()
            if self._rotate_at and writer.file_size >= self._rotate_at:
                writer.rotate()

    def flush(self) -> None:
        """Write a checkpoint, unless there is nothing new since the last.

        Raises
        ------
        LedgerError
            As for `emit`.
        """
        with self._lock:
            self._require_open().checkpoint()

    def close(self) -> None:
        """Write the seal and let the ledger go; a second call does nothing.

        Raises
        ------
        LedgerError
            The seal cannot be written; the ledger is let go all the same.
        """
        with self._lock:
            if self._writer is None:
                return
            writer = self._require_open()
            self._writer = None
            try:
                writer.close()
            finally:
                self._head = writer.head

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _open_redaction(self, is_new: bool) -> Redaction:
        """Take the salt that was given, or the one beside the ledger; a new one has none yet."""
        if self._redactor is None:
            path = salt_file(self.path)
            self._redactor = Redactor(keep_salt(path) if is_new else read_salt(path))
        return self._redactor.redaction

    def _require_open(self) -> LedgerWriter:
        if self._writer is None:
            raise LedgerError(f"the ledger {self.path} is closed")
        if os.getpid() != self._owner:
            raise LedgerError(f"the ledger {self.path} belongs to process {self._owner}")
        return self._writer


def _require(holds: bool, text: str) -> None:
    if not holds:
        raise LedgerOptionError(text)
