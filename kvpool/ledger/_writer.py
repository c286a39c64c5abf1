"""`LedgerWriter`: the chain of lines, over files that follow each other."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn, TypedDict, TypeVar

import msgspec

from kvpool.ledger._file import LedgerFile, sync_directory
from kvpool.ledger._lines import (
    FORMAT,
    MAX_LINE,
    Checkpoint,
    Header,
    LedgerLine,
    ReceiptLine,
    Recovery,
    Redaction,
    Rotation,
    Seal,
    encode_line,
    line_hash,
    signed_bytes,
)
from kvpool.ledger._resume import LedgerEnd, find_end, set_aside
from kvpool.receipts.errors import LedgerError, LedgerOptionError
from kvpool.receipts.types import Receipt, timestamp

if TYPE_CHECKING:
    from kvpool.ledger.ed25519 import Signer

__all__ = ["FsyncPolicy", "LedgerWriter", "OpenRedaction"]

FsyncPolicy = Literal["never", "checkpoint", "always"]
OpenRedaction = Callable[[bool], Redaction]

S = TypeVar("S", Checkpoint, Rotation, Seal)


class _End(msgspec.Struct, frozen=True):
    """Where the ledger ends; replaced as a whole, by one store, once a line is written.

    Attributes
    ----------
    file : LedgerFile
        The file that is being written.
    index : int
        0 for the first file of the ledger.
    size : int
        Bytes of the file's lines. What stands behind them is a write that was interrupted.
    prev : str
        Hash of the last line.
    lines, receipts : int
        Of this segment.
    unvouched : int
        Receipts since the last signed line.
    last : Receipt or None
        The receipt that was written last, as `append_receipt` was given it.
    torn : bytes or None
        What a recovery line is still to be written for.
    is_ended : bool
        Whether nothing can be written any more.
    """

    file: LedgerFile
    index: int
    size: int
    prev: str
    lines: int = 0
    receipts: int = 0
    unvouched: int = 0
    last: Receipt | None = None
    torn: bytes | None = None
    is_ended: bool = False


class _Counts(TypedDict):
    """The fields that all signed lines have."""

    prev: str
    lines: int
    receipts: int


class LedgerWriter:
    """Appends lines to a ledger, each with the hash of the line before.

    Parameters
    ----------
    path : Path
        The first file.
    signer : Signer or None
    open_redaction : callable or None
        Called once the ledger is locked, with whether the ledger is new; returns what the
        header says. None if session ids are written as they are.
    fsync : "never", "checkpoint" or "always"
    copy_of : str or None
        For the header.

    Raises
    ------
    LedgerLockedError
        The ledger has another writer.
    DamagedLedgerError
        The file is not a ledger, or its end is damaged.
    LedgerOptionError
        The existing ledger is signed with another key, or redacted with another salt.
    LedgerError
        The system refuses.

    Attributes
    ----------
    recovered : str
        What was found at the end of a ledger that was not closed; empty if it was closed.

    Notes
    -----
    A line is written whole or not at all. If writing fails or is interrupted, the file is cut
    back to the line before, now or before the next line is written. Each method may be
    called again after an interrupt and goes on where it was. Not thread-safe.
    """

    def __init__(
        self,
        path: Path,
        signer: Signer | None,
        open_redaction: OpenRedaction | None,
        fsync: FsyncPolicy,
        copy_of: str | None = None,
    ) -> None:
        self.path = path
        self.recovered = ""
        self._signer, self._fsync, self._copy_of = signer, fsync, copy_of
        self._files = [LedgerFile(path)]  # the first one, whose lock is the ledger's
        try:
            self._files[0].lock()
            end = find_end(self._files[0])
            self._files.append(end.file)
            self._ledger_id = end.header.ledger_id if end.header else secrets.token_hex(16)
            self._redaction = self._agree(end.header, open_redaction)
            torn = self._recover(end)
            self._end = _End(end.file, end.index, end.file.size, end.prev, torn=torn)
            self._begin_segment()
        except BaseException:
            self._close_files()
            raise

    @property
    def head(self) -> str:
        """Hash of the last line, hexadecimal."""
        return self._end.prev

    @property
    def file_size(self) -> int:
        """Bytes of the file that is being written."""
        return self._end.size

    # -- what is written ------------------------------------------------------------------

    def append_receipt(self, receipt: Receipt, shown: Receipt) -> int:
        """Write a receipt, unless it was the last one that was written.

        Parameters
        ----------
        receipt : Receipt
            What was emitted. After an interrupt it is emitted again.
        shown : Receipt
            What is written: the same, or without a session id that could be read.

        Returns
        -------
        int
            Receipts since the last signed line.

        Raises
        ------
        LedgerError
            The receipt cannot be written, or the ledger is closed.
        """
        end = self._end
        if receipt is not end.last:
            if not end.lines or end.torn is not None:
                self._begin_segment()
                end = self._end
            line = ReceiptLine(prev=end.prev, receipt=shown)
            end = self._write(line, end.receipts + 1, end.unvouched + 1, receipt)
        return end.unvouched

    def checkpoint(self) -> None:
        """Write a checkpoint, unless there is nothing new since the last one.

        Raises
        ------
        LedgerError
            The checkpoint cannot be written.
        """
        self._require_open()
        if self._end.unvouched:
            self._write(
                self._signed(Checkpoint(**self._counts(), signature=None)), self._end.receipts
            )
        self._sync(self._end.file)

    def rotate(self) -> None:
        """End the file, and go on in the next one.

        Raises
        ------
        LedgerError
            The next file cannot be made, or a line cannot be written.
        """
        end = self._end
        name = f"{self.path.stem}.{end.index + 1:06d}{self.path.suffix}"
        following = LedgerFile(self.path.with_name(name))
        self._files.append(following)
        if following.size:
            self._close_files_but(end.file)
            raise LedgerError(
                f"cannot continue the ledger in {following.path}: there is something in it"
            )
        line = self._signed(Rotation(**self._counts(), signature=None, next=name))
        try:
            self._write(line, continued=following)
        except BaseException:
            self._close_files_but(self._end.file)
            raise
        self._sync(end.file)
        self._close_files_but(following)
        self._begin_segment()

    def close(self) -> None:
        """Write the seal and close the files; a second call does nothing.

        An interrupt leaves the ledger open, for a second call to go on.

        Raises
        ------
        LedgerError
            The seal cannot be written. The files are closed all the same.
        """
        if not self._files:
            return
        try:
            if not self._end.is_ended:  # an interrupted call may have written the seal
                self._begin_segment()
                self._write(self._signed(Seal(**self._counts(), signature=None)), is_ended=True)
            self._sync(self._end.file)
        except LedgerError:
            self._end = msgspec.structs.replace(self._end, is_ended=True)
            self._close_files()
            raise
        self._close_files()

    # -- segments ------------------------------------------------------------------------

    def _agree(
        self, header: Header | None, open_redaction: OpenRedaction | None
    ) -> Redaction | None:
        """Refuse to continue a ledger in another way than it was begun."""
        is_new = header is None
        if header is None:
            return open_redaction(is_new) if open_redaction else None
        key = self._signer.public_key if self._signer else None
        if header.public_key != key:
            self._refuse(_signed_with(header.public_key), _signed_with(key))
        there = header.redaction
        if open_redaction is None:
            if there is not None:
                self._refuse("redacted", "unredacted")
            return None
        if there is None:
            self._refuse("unredacted", "redacted")
        ours = open_redaction(is_new)
        if ours != there:
            self._refuse(f"redacted with salt {there.salt_id}", f"with salt {ours.salt_id}")
        return ours

    def _refuse(self, there: str, ours: str) -> NoReturn:
        raise LedgerOptionError(f"the ledger {self.path} is {there}: it cannot go on {ours}")

    def _recover(self, end: LedgerEnd) -> bytes | None:
        """Set an unfinished line aside; return what the recovery line is about, if one is due."""
        if end.ended and not end.torn:
            return None
        aside = set_aside(end)
        self.recovered = f"the last writer of {end.file.path} did not close it" + (
            f"; {len(end.torn)} bytes of an unfinished line are in {aside}" if aside else ""
        )
        return end.torn

    def _begin_segment(self) -> None:
        """Write what a segment begins with, if it is not there yet."""
        if not self._end.lines:
            header = Header(
                prev=self._end.prev,
                format=FORMAT,
                ledger_id=self._ledger_id,
                file=self._end.index,
                created=timestamp(),
                public_key=self._signer.public_key if self._signer else None,
                redaction=self._redaction,
                copy_of=self._copy_of,
            )
            self._write(header, torn=self._end.torn)
            self._sync(self._end.file)
            if self._fsync != "never":
                sync_directory(self._end.file.path.parent)
        torn = self._end.torn
        if torn is not None:
            digest = sha256(torn).hexdigest()
            self._write(Recovery(prev=self._end.prev, torn_bytes=len(torn), torn_sha256=digest))

    # -- lines ---------------------------------------------------------------------------

    def _counts(self) -> _Counts:
        end = self._end
        return {"prev": end.prev, "lines": end.lines, "receipts": end.receipts}

    def _signed(self, line: S) -> S:
        if self._signer is None:
            return line
        return msgspec.structs.replace(line, signature=self._signer.sign(signed_bytes(line)))

    def _write(
        self,
        line: LedgerLine,
        receipts: int = 0,
        unvouched: int = 0,
        last: Receipt | None = None,
        *,
        torn: bytes | None = None,
        is_ended: bool = False,
        continued: LedgerFile | None = None,
    ) -> _End:
        """Write one line, or nothing; the other arguments are what is true afterwards."""
        end = self._end
        if end.is_ended:
            self._require_open()
        file, raw = end.file, encode_line(line)
        size = len(raw)
        if size > MAX_LINE:
            raise LedgerError(f"{self.path}: a line has {size} bytes, at most {MAX_LINE} fit")
        place = file, end.index, end.size + size + 1
        lines = end.lines + 1
        if continued is not None:
            place, lines = (continued, end.index + 1, 0), 0
        last = last or end.last
        after = _End(*place, line_hash(raw), lines, receipts, unvouched, last, torn, is_ended)
        try:
            file.append(raw, end.size)
            if self._fsync == "always":
                file.sync()
            self._end = after  # from here on the line is written
        except BaseException as error:
            if self._end is end:
                with contextlib.suppress(OSError):  # or else `append` drops the rest
                    file.cut(end.size)
            if isinstance(error, OSError):
                raise LedgerError(f"cannot write to {file.path}: {error}") from error
            raise
        return after

    def _require_open(self) -> None:
        if self._end.is_ended:
            raise LedgerError(f"the ledger {self.path} is closed")

    def _sync(self, file: LedgerFile) -> None:
        if self._fsync != "never":
            try:
                file.sync()
            except OSError as error:
                raise LedgerError(f"cannot sync {file.path}: {error}") from error

    def _close_files(self) -> None:
        while self._files:  # the first one last: its lock is the ledger's
            self._files[-1].close()
            self._files.pop()

    def _close_files_but(self, current: LedgerFile) -> None:
        """Close all files but the first one and the one that is being written."""
        for file in self._files[1:]:
            if file is not current and file is not self._files[0]:
                file.close()
        self._files[1:] = [current]


def _signed_with(key: str | None) -> str:
    return f"signed with key {key}" if key else "unsigned"
