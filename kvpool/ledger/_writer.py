"""`LedgerWriter`: the chain of lines, over files that follow each other."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, NoReturn, TypedDict, TypeVar

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


class _Chain(NamedTuple):
    """Where the chain stands; replaced as a whole once a line is written."""

    prev: str
    lines: int = 0  # of this segment
    receipts: int = 0


class _Counts(TypedDict):
    """The fields that all signed lines have."""

    prev: str
    lines: int
    receipts: int


class LedgerWriter:
    """Appends lines to a ledger, each with the hash of the one before.

    Parameters
    ----------
    path : Path
        The first file.
    signer : Signer or None
    open_redaction : callable or None
        Called once the ledger is locked, with whether it is a new one; returns what the
        header says. None where session ids are written as they are.
    fsync : "never", "checkpoint" or "always"
    copy_of : str or None
        For the header.

    Raises
    ------
    LedgerLockedError, DamagedLedgerError, LedgerError
    LedgerOptionError
        The ledger that is there is signed with another key, or redacted with another salt.

    Attributes
    ----------
    recovered : str
        What was found at the end of a ledger that was not closed; empty if it was.
    since_checkpoint : int
        Receipts that no checkpoint vouches for yet.

    Notes
    -----
    A line is written whole or not at all: where writing fails or is interrupted, the file is
    cut back to the line before, and the next line takes its place. Not thread-safe.
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
        self._torn: bytes | None = None  # what a recovery line is still to be written for
        self.since_checkpoint = 0
        self._first = self._file = LedgerFile(path)
        try:
            self._first.lock()
            end = find_end(self._first)
            self._file, self._index, self._chain = end.file, end.index, _Chain(end.prev)
            self._ledger_id = end.header.ledger_id if end.header else secrets.token_hex(16)
            self._redaction = self._agree(end.header, open_redaction)
            self._recover(end)
            self._begin_segment()
        except BaseException:
            self._close_files()
            raise

    @property
    def head(self) -> str:
        """Hash of the last line, hexadecimal."""
        return self._chain.prev

    @property
    def file_size(self) -> int:
        """Bytes of the file that is being written."""
        return self._file.size

    # -- what is written ------------------------------------------------------------------

    def append_receipt(self, receipt: Receipt) -> None:
        """Write a receipt."""
        self._begin_segment()
        self._write(ReceiptLine(prev=self._chain.prev, receipt=receipt))
        self.since_checkpoint += 1

    def checkpoint(self) -> None:
        """Write a checkpoint, unless there is nothing new since the last."""
        if self.since_checkpoint:
            self._write(self._signed(Checkpoint(**self._counts(), signature=None)))
            self.since_checkpoint = 0
        self._sync(self._file)

    def rotate(self) -> None:
        """End the file, and go on in the next."""
        name = f"{self.path.stem}.{self._index + 1:06d}{self.path.suffix}"
        following, ended = LedgerFile(self.path.with_name(name)), self._file
        try:
            if following.size:
                raise LedgerError(f"cannot go on in {following.path}: there is something in it")
            self._write(self._signed(Rotation(**self._counts(), signature=None, next=name)))
        except BaseException:
            following.close()
            raise
        self._file, self._index = following, self._index + 1
        self._chain, self.since_checkpoint = _Chain(self._chain.prev), 0
        self._sync(ended)
        if ended is not self._first:  # whose lock is the ledger's
            ended.close()
        self._begin_segment()

    def close(self) -> None:
        """Write the seal and close the files."""
        try:
            self._begin_segment()
            self._write(self._signed(Seal(**self._counts(), signature=None)))
            self._sync(self._file)
        finally:
            self._close_files()

    # -- segments ------------------------------------------------------------------------

    def _agree(
        self, header: Header | None, open_redaction: OpenRedaction | None
    ) -> Redaction | None:
        """Refuse to go on with a ledger in another way than it was begun."""
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

    def _recover(self, end: LedgerEnd) -> None:
        if end.ended and not end.torn:
            return
        aside = set_aside(end)
        self._torn = end.torn
        self.recovered = f"the last writer of {end.file.path} did not close it" + (
            f"; {len(end.torn)} bytes of an unfinished line are in {aside}" if aside else ""
        )

    def _begin_segment(self) -> None:
        """Write what a segment begins with, if it is not there yet."""
        if not self._chain.lines:
            header = Header(
                prev=self._chain.prev,
                format=FORMAT,
                ledger_id=self._ledger_id,
                file=self._index,
                created=timestamp(),
                public_key=self._signer.public_key if self._signer else None,
                redaction=self._redaction,
                copy_of=self._copy_of,
            )
            self._write(header)
            self._sync(self._file)
            if self._fsync != "never":
                sync_directory(self._file.path.parent)
        if self._torn is not None:
            torn, digest = len(self._torn), sha256(self._torn).hexdigest()
            self._write(Recovery(prev=self._chain.prev, torn_bytes=torn, torn_sha256=digest))
            self._torn = None

    # -- lines ---------------------------------------------------------------------------

    def _counts(self) -> _Counts:
        chain = self._chain
        return {"prev": chain.prev, "lines": chain.lines, "receipts": chain.receipts}

    def _signed(self, line: S) -> S:
        if self._signer is None:
            return line
        return msgspec.structs.replace(line, signature=self._signer.sign(signed_bytes(line)))

    def _write(self, line: LedgerLine) -> None:
        """Write one line, or nothing."""
        before, size = self._chain, self._file.size
        raw = encode_line(line)
        if len(raw) > MAX_LINE:
            raise LedgerError(f"{self.path}: a line has {len(raw)} bytes, at most {MAX_LINE} fit")
        receipts = before.receipts + isinstance(line, ReceiptLine)
        after = _Chain(line_hash(raw), before.lines + 1, receipts)
        try:
            self._file.append(raw)
            if self._fsync == "always":
                self._file.sync()
            self._chain = after
        except BaseException as error:  # a keyboard interrupt, too, leaves no half of a line
            self._chain = before
            self._file.roll_back(size)
            if isinstance(error, OSError):
                raise LedgerError(f"cannot write to {self._file.path}: {error}") from error
            raise

    def _sync(self, file: LedgerFile) -> None:
        if self._fsync != "never":
            try:
                file.sync()
            except OSError as error:
                raise LedgerError(f"cannot sync {file.path}: {error}") from error

    def _close_files(self) -> None:
        self._file.close()
        self._first.close()


def _signed_with(key: str | None) -> str:
    return f"signed with key {key}" if key else "unsigned"
