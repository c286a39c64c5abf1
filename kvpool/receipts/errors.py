"""Errors of receipts, ledgers and sinks."""

from __future__ import annotations

from kvpool.errors import KVPoolError, MissingExtraError

__all__ = [
    "DamagedLedgerError",
    "InvalidReceiptError",
    "LedgerError",
    "LedgerLockedError",
    "LedgerOptionError",
    "MissingExtraError",
    "ReceiptError",
    "SchemaVersionError",
    "SigningKeyError",
]


class ReceiptError(KVPoolError):
    """Base class of the errors of receipts, ledgers and sinks."""


class InvalidReceiptError(ReceiptError, ValueError):
    """The bytes are no receipt; the text names the field."""


class SchemaVersionError(ReceiptError, ValueError):
    """The receipt is of another major version of the schema; the text has both."""


class LedgerError(ReceiptError):
    """A ledger cannot be opened, read or written; the text names the file and the reason."""


class LedgerLockedError(LedgerError):
    """Another writer has the ledger open; the text names the file, and the process if known."""


class DamagedLedgerError(LedgerError):
    """The file is no ledger, or its end is damaged; nothing was appended to it."""


class LedgerOptionError(LedgerError, ValueError):
    """An option has a value it cannot take, or contradicts the ledger that is there."""


class SigningKeyError(LedgerError, ValueError):
    """The file holds no Ed25519 key of the kind that is needed."""
