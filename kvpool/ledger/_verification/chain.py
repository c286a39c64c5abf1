"""The chain of a ledger: hashes, segments, counts, signatures; and what its receipts say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, get_args

from kvpool._escaping import printable
from kvpool._optional_imports import ed25519
from kvpool.ledger._lines import (
    MAX_LINE,
    ZERO,
    Checkpoint,
    Header,
    ReceiptLine,
    Recovery,
    Rotation,
    Seal,
    Signed,
    decode_line,
    line_hash,
    signed_bytes,
)
from kvpool.ledger._verification.books import PoolBooks
from kvpool.ledger._verification.form import form_problem, what_is_wrong
from kvpool.ledger._verification.report import Finding, VerifyReport
from kvpool.receipts.canonical import UNREADABLE
from kvpool.receipts.errors import MissingExtraError
from kvpool.receipts.types import Receipt

__all__ = ["ChainCheck"]

_EXPECTED = {
    "header": "files and segments begin with a header",
    "recovery": "the segment before was not ended",
}


@dataclass(slots=True)
class _Segment:
    """What one writer wrote from opening to closing, so far."""

    header: Header
    lines: int = 0
    receipts: int = 0
    ended: bool = False


class ChainCheck:
    """Checks line after line, and adds what is wrong to a report.

    After a finding the check goes on with the values of the line, so that a change is found in
    the line where it was made, and not in all later lines.

    Parameters
    ----------
    report : VerifyReport
    public_key : str, optional
        The key that the ledger has to be signed with; raw, hexadecimal.
    head : str, optional
        Hash of a line that the ledger has to have.

    Attributes
    ----------
    head_seen : bool
        Whether the ledger has it; True if `head` is None.
    """

    def __init__(self, report: VerifyReport, public_key: str | None, head: str | None) -> None:
        self.report = report
        self.head_seen = head is None
        self._public_key, self._head = public_key, head
        self._prev = ZERO
        self._file, self._file_index, self._line = "", -1, 0
        self._next: str | None = None  # the file that the rotation in this one names
        self._segment: _Segment | None = None
        self._expected: str | None = None  # the kind of line that must come, if one must
        self._unbroken = True  # whether each line so far carried the hash of the one before
        self._first_header: Header | None = None
        self._books: dict[str, PoolBooks] = {}
        self._events = dict.fromkeys(get_args(Receipt), 0)
        self._handlers: dict[type, Callable[[Any], None]] = {
            ReceiptLine: self._receipt,
            Header: self._header,
            Recovery: self._recovery,
            Checkpoint: self._signed,
            Rotation: self._rotation,
            Seal: self._seal,
        }

    def find(self, field: str, expected: object, found: object, rule: str) -> None:
        """Note a finding in the line at hand."""
        where = self._file, self._line
        self.report.add(Finding(*where, field, _shown(expected), _shown(found), rule))

    def find_in_file(self, field: str, expected: object, found: object, rule: str) -> None:
        """Note a finding in the file at hand as a whole."""
        self.report.add(Finding(self._file, 0, field, _shown(expected), _shown(found), rule))

    # -- files and lines -------------------------------------------------------------------

    def begin_file(self, name: str) -> None:
        """Begin to check a file."""
        self.report.files.append(name)
        self._file, self._line, self._next = name, 0, None
        self._file_index += 1
        self._expected = "header"

    def end_file(self) -> str | None:
        """End the file at hand; return the name of the one that comes next, if any."""
        self.report.lines += self._line
        if not self._line:
            self.find_in_file("kind", "header", "an empty file", _EXPECTED["header"])
        return self._next

    def check(self, raw: bytes) -> None:
        """Check one line.

        Parameters
        ----------
        raw : bytes
            With its line end, as `read_lines` yields it.
        """
        self._line += 1
        if self._next is not None:
            self.find("kind", "the end of the file", raw[:40], "a rotation is a file's last line")
        if raw.endswith(b"\n"):
            raw = raw[:-1]
            self._check_whole(raw)
        elif len(raw) > MAX_LINE:
            self.find("line", f"at most {MAX_LINE} bytes", "more", "no line is longer")
        else:
            self.find("line", "a line end", f"{len(raw)} bytes without one", "torn, or cut off")
        self._prev = digest = line_hash(raw)
        if digest == self._head:
            self.head_seen = True

    def _check_whole(self, raw: bytes) -> None:
        try:
            line = decode_line(raw)
        except UNREADABLE as error:
            self.find(*what_is_wrong(raw, error))
            self._expected = None  # it may have been that
            self._unbroken = False
            return
        if line.prev != self._prev:
            self.find("prev", self._prev, line.prev, "the hash of the line before")
            self._unbroken = False
        problem = form_problem(line, raw)
        if problem:
            self.find(*problem)
        if self._expected:
            kind = line.__struct_config__.tag
            if kind != self._expected:
                self.find("kind", self._expected, kind, _EXPECTED[self._expected])
            self._expected = None
        self._handlers[line.__class__](line)
        if self._segment:
            self._segment.lines += 1

    # -- segments ----------------------------------------------------------------------------

    def _header(self, header: Header) -> None:
        if self._segment and not self._segment.ended:
            self._expected = "recovery"
        self._segment = _Segment(header)
        self.report.segments += 1
        first = self._first_header
        if first is None:
            self._first_header = first = header
            self.report.public_key = header.public_key
            if self._public_key and header.public_key != self._public_key:
                rule = "the key that was given has to be the ledger's"
                self.find("public_key", self._public_key, header.public_key, rule)
        for field in ("ledger_id", "public_key", "redaction"):
            expected, found = getattr(first, field), getattr(header, field)
            if found != expected:
                self.find(field, expected, found, "as in the first header of the ledger")
        if header.file != self._file_index:
            self.find("file", self._file_index, header.file, "files come in order, from the first")
        self._check_time("created", header.created)

    def _recovery(self, line: Recovery) -> None:
        if self._segment and self._segment.lines != 1:
            self.find("kind", "anything else", "recovery", "a recovery follows a header")
        torn = f", with {line.torn_bytes} bytes of an unfinished line" if line.torn_bytes else ""
        self.report.notes.append(
            f"{self._file}:{self._line}: the writer before did not close the ledger{torn}: "
            "receipts may be missing here"
        )

    def _rotation(self, line: Rotation) -> None:
        self._end_segment(line)
        self._next = line.next

    def _seal(self, line: Seal) -> None:
        self._end_segment(line)

    def _end_segment(self, line: Rotation | Seal) -> None:
        self._signed(line)
        self._expected = "header"
        if self._segment:
            self._segment.ended = True

    # -- receipts ----------------------------------------------------------------------------

    def _receipt(self, line: ReceiptLine) -> None:
        receipt = line.receipt
        self._events[receipt.__class__] += 1
        if self._segment:
            self._segment.receipts += 1
        self._check_time("receipt.timestamp", receipt.timestamp)
        books = self._books.get(receipt.pool_id)
        if books is None:
            books = self._books[receipt.pool_id] = PoolBooks(receipt, self._find_in_receipt)
        books.check(receipt)

    def _find_in_receipt(self, field: str, expected: object, found: object, rule: str) -> None:
        self.find(f"receipt.{field}", expected, found, rule)

    def _check_time(self, field: str, text: str) -> None:
        try:
            datetime.fromisoformat(text)
        except ValueError:
            self.find(field, "a moment", text, "RFC 3339")

    # -- signatures --------------------------------------------------------------------------

    def _signed(self, line: Signed) -> None:
        segment = self._segment
        if segment is None:
            return
        if line.lines != segment.lines:
            self.find("lines", segment.lines, line.lines, "lines of this segment before this one")
        if line.receipts != segment.receipts:
            rule = "receipts of this segment before this line"
            self.find("receipts", segment.receipts, line.receipts, rule)
        key = segment.header.public_key
        if (key is None) != (line.signature is None):
            expected = "null" if key is None else "a signature"
            self.find("signature", expected, line.signature, "signed as the header says")
        elif key is not None and line.signature is not None:
            self._check_signature(key, line.signature, line)

    def _check_signature(self, key: str, signature: str, line: Signed) -> None:
        try:
            valid = ed25519().signature_is_valid(key, signature, signed_bytes(line))
        except MissingExtraError as error:
            note = f"signatures were not checked: {error}"
            if note not in self.report.notes:
                self.report.notes.append(note)
            return
        if valid:
            self.report.signatures += 1
            if self._unbroken:
                self.report.covered = self.report.lines + self._line
        else:
            self.find("signature", f"one of {key}", signature, "Ed25519 over the line before it")

    # -- the end -----------------------------------------------------------------------------

    def finish(self) -> None:
        """Add the figures and findings that need the whole ledger."""
        report = self.report
        for kind, count in self._events.items():
            report.events[str(kind.__struct_config__.tag)] = count
        report.receipts = sum(self._events.values())
        if not report.lines:
            return
        report.head = self._prev
        report.is_sealed = bool(self._segment and self._segment.ended and self._next is None)
        if back := sum(books.steps_back for books in self._books.values()):
            report.notes.append(f"the clock of the pool stepped back {back} times")
        if report.public_key is None:
            report.notes.append("not signed: anyone with write access can replace all of it")
            return
        if self._public_key is None:
            report.notes.append(
                f"signed with {report.public_key}, as it says itself: who wrote it is proved "
                "only with a public key from elsewhere"
            )
        if report.covered < report.lines:
            uncovered = report.lines - report.covered
            report.notes.append(f"the last {uncovered} lines are under no valid signature")


def _shown(value: object) -> str:
    """Return a value as one line of text, cut where it is long."""
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else f"{value}"
    text = "null" if value is None else printable(text)
    return text if len(text) <= 200 else f"{text[:200]}…"
