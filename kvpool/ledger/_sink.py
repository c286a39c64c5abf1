"""`LedgerSink`: writes receipts to a ledger, a chain of lines that a stranger can verify."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from kvpool._closing import Closing
from kvpool._optional_imports import ed25519
from kvpool._process import current
from kvpool.errors import ForkedProcessError
from kvpool.ledger._lines import Redaction
from kvpool.ledger._redaction import Redactor, keep_salt, read_salt, salt_file
from kvpool.ledger._writer import FsyncPolicy, LedgerWriter
from kvpool.receipts.errors import LedgerOptionError
from kvpool.receipts.sink import ReceiptSink
from kvpool.receipts.types import Receipt

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from kvpool.ledger.ed25519 import Signer

__all__ = ["LedgerSink"]

_log = logging.getLogger(__name__)


class LedgerSink(ReceiptSink, Closing):
    """Appends receipts to a ledger: JSON lines, each with the hash of the line before.

    Parameters
    ----------
    path : path
        The first file of the ledger. An existing ledger is continued. A new file is readable
        by its owner only.
    key : Ed25519PrivateKey or path, optional
        Signs checkpoints and the end; a PEM file as ``kvpool receipts keygen`` writes it.
        By default nothing is signed.
    redact : bool, default False
        Write session ids as salted digests.
    salt : bytes, optional
        32 bytes. By default those in ``<path>.salt``, a file that is created with the
        ledger and stays with its owner.
    checkpoint_every : int, default 1,000
        Receipts from one checkpoint to the next.
    rotate_at : int, optional
        Bytes after which the ledger continues in another file beside this one. By default
        all of it is in one file.
    fsync : {"checkpoint", "always", "never"}
        When to wait for the disk: at checkpoints, after every line, or not at all. What was
        emitted survives the end of the process in any case; what is not yet on the disk
        does not survive a crash of the machine.
    copy_of : str, optional
        For a copy of another ledger: the head of that ledger, 64 hexadecimal digits.

    Raises
    ------
    LedgerLockedError
        The ledger has a writer already.
    DamagedLedgerError
        The file holds something else, or its end is damaged.
    LedgerOptionError
        An option has a value that it cannot take, or that the ledger was not begun with.
    SigningKeyError
        `key` is not an Ed25519 private key.
    LedgerError
        The system refuses.
    MissingExtraError
        A key was given, and ``kvpool[sign]`` is not installed.

    Notes
    -----
    `flush` writes a checkpoint, `close` a seal. A ledger without a seal at its end is open: it
    is being written, or its writer was killed, or its end was cut off. The next writer
    moves an unfinished last line to a file beside the ledger, and records that in the ledger.

    *Threads.* All methods may be called by any thread.

    *Interrupts.* After an interrupt at any moment the ledger has each receipt once or not at
    all, and each method may be called again.

    *Processes.* A child that `os.fork` made cannot write to the ledger of its parent: `emit`
    and `flush` raise `ForkedProcessError`, and `close` does nothing.
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
        _require_count("checkpoint_every", checkpoint_every)
        if rotate_at is not None:
            _require_count("rotate_at", rotate_at)
        policies = get_args(FsyncPolicy)
        _require(fsync in policies, f"fsync must be one of {', '.join(policies)}, not {fsync!r}")
        _require(salt is None or redact, "a salt is for a redacted ledger: it needs redact=True")
        signer: Signer | None = ed25519().Signer(key) if key is not None else None
        self._redactor = Redactor(salt) if salt is not None else None
        self._checkpoint_every, self._rotate_at = checkpoint_every, rotate_at
        self._lock = threading.Lock()
        self._owner = current.pid
        open_redaction = self._open_redaction if redact else None
        self._writer = LedgerWriter(self.path, signer, open_redaction, fsync, copy_of)
        if self._writer.recovered:
            _log.warning("%s", self._writer.recovered)

    @property
    def name(self) -> str:
        """The sink's name in messages."""
        return f"ledger {self.path}"

    @property
    def head(self) -> str:
        """Hash of the last line. Note it down: later it proves that nothing was cut off."""
        return self._writer.head

    def emit(self, receipt: Receipt, /) -> None:
        """Append a receipt, unless it is the one that was appended last.

        Raises
        ------
        LedgerError
            The receipt cannot be written, and the file is as it was; or the ledger is closed.
        ForkedProcessError
            The ledger belongs to the parent of this process.
        """
        self._require_owner()
        shown = self._redactor.redact(receipt) if self._redactor else receipt
        with self._lock:
            writer = self._writer
            if writer.append_receipt(receipt, shown) >= self._checkpoint_every:
                writer.checkpoint()
            if self._rotate_at and writer.file_size >= self._rotate_at:
                writer.rotate()

    def flush(self) -> None:
        """Write a checkpoint, unless there is nothing new since the last one.

        Raises
        ------
        LedgerError
            The checkpoint cannot be written, and the file is as it was; or the ledger is closed.
        ForkedProcessError
            The ledger belongs to the parent of this process.
        """
        self._require_owner()
        with self._lock:
            self._writer.checkpoint()

    def close(self) -> None:
        """Write the seal and close the files; a second call does nothing.

        An interrupt leaves the ledger open, for a second call to go on.

        Raises
        ------
        LedgerError
            The seal cannot be written. The files are closed all the same.
        """
        if current.pid == self._owner:
            with self._lock:
                self._writer.close()

    def _open_redaction(self, is_new: bool) -> Redaction:
        """Take the salt that was given, or the one beside the ledger; a new one has none yet."""
        if self._redactor is None:
            path = salt_file(self.path)
            self._redactor = Redactor(keep_salt(path) if is_new else read_salt(path))
        return self._redactor.redaction

    def _require_owner(self) -> None:
        # Before the lock, which another thread of the parent may have held at the fork.
        if current.pid != self._owner:
            raise ForkedProcessError(
                f"the ledger {self.path} belongs to process {self._owner}, the parent of this "
                "one; open another ledger in each process"
            )


def _require(holds: bool, text: str) -> None:
    if not holds:
        raise LedgerOptionError(text)


def _require_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise LedgerOptionError(f"{name} must be a whole number, not {value!r}")
    _require(value >= 1, f"{name} must be at least 1, not {value}")
