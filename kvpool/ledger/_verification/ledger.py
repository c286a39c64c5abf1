"""`verify`: check that a ledger was not changed, and that its numbers add up."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from kvpool._optional_imports import ed25519
from kvpool.ledger._reader import first_file, next_file, open_plain, read_lines
from kvpool.ledger._verification.chain import ChainCheck
from kvpool.ledger._verification.report import Finding, VerifyReport
from kvpool.receipts.errors import LedgerError

__all__ = ["verify"]


def verify(
    ledger: str | Path | BinaryIO,
    *,
    public_key: str | Path | None = None,
    head: str | None = None,
    allow_open: bool = False,
) -> VerifyReport:
    """Check all of a ledger: form, chain, signatures, sequence, arithmetic.

    Parameters
    ----------
    ledger : path or binary file
        The first file of the ledger, whose rotations are followed, or the directory that
        holds it and no other ledger. Of a file object only what can be read from it.
    public_key : path, optional
        PEM file with the key that the ledger has to be signed with.
    head : str, optional
        Hash of a line, noted earlier, that the ledger still has to have: what was written
        until then was not cut off.
    allow_open : bool, default False
        Whether a ledger without a seal at its end is a note instead of a finding. Such a ledger
        may still be written, or its end may have been cut off.

    Returns
    -------
    VerifyReport
        No bytes of a ledger raise an error.

    Raises
    ------
    SigningKeyError
        `public_key` cannot be read.
    MissingExtraError
        `public_key` was given, and ``kvpool[sign]`` is not installed.
    """
    key = ed25519().read_public_key(public_key) if public_key is not None else None
    report = VerifyReport()
    check = ChainCheck(report, key, head.lower() if head else None)
    if isinstance(ledger, (str, Path)):
        _check_files(Path(ledger), check)
    else:
        check.begin_file(str(getattr(ledger, "name", "ledger")))
        _check_lines(ledger, check)
        _finish_file(check, None)
    check.finish()
    if not report.lines and report.total_findings:
        return report  # there is no ledger
    if not report.is_sealed:
        _note_open(check, allow_open=allow_open)
    if not check.head_seen:
        check.find_in_file("head", head, report.head, "a line with that hash was there once")
    return report


def _check_files(path: Path, check: ChainCheck) -> None:
    try:
        current: Path | None = first_file(path)
    except (LedgerError, OSError, ValueError) as error:
        check.report.add(Finding(str(path), 0, "file", "a ledger", "none", f"{error}"))
        return
    seen: set[Path] = set()
    while current is not None and current not in seen:
        seen.add(current)
        check.begin_file(str(current))
        try:
            with open_plain(current) as file:
                _check_lines(file, check)
        except (
            LedgerError,
            OSError,
            ValueError,
        ) as error:  # the latter for a name that the system cannot have
            check.find_in_file("file", "a file that can be read", "none", f"{error}")
            return
        current = _finish_file(check, current)
    if current is not None:
        check.find_in_file("next", "another file", current, "a file comes once")


def _check_lines(file: BinaryIO, check: ChainCheck) -> None:
    for raw in read_lines(file):
        check.check(raw)


def _finish_file(check: ChainCheck, current: Path | None) -> Path | None:
    following = check.end_file()
    if following is None or current is None:
        return None
    try:
        return next_file(current, following)
    except LedgerError as error:
        check.find_in_file("next", "the name of a file", following, f"{error}")
        return None


def _note_open(check: ChainCheck, *, allow_open: bool) -> None:
    text = "it is being written, its writer was killed, or its end was cut off"
    if allow_open:
        check.report.notes.append(f"the ledger is open: {text}")
    else:
        check.find_in_file("kind", "a seal at the end", "none", f"open: {text}")
