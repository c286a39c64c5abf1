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
    """The bytes are not a receipt; the text names the field."""


class SchemaVersionError(ReceiptError, ValueError):
    """The receipt has another major version of the schema; the text names both versions."""


class LedgerError(ReceiptError):
    """A ledger cannot be opened, read or written; the text names the file and the reason."""


class LedgerLockedError(LedgerError):
    """Another writer has the ledger open; the text names the file, and the process if known."""


class DamagedLedgerError(LedgerError):
    """The file is not a ledger, or its end is damaged; nothing was appended to it."""


class LedgerOptionError(LedgerError, ValueError):
    """An option has an invalid value, or contradicts the existing ledger."""


class SigningKeyError(LedgerError, ValueError):
    """The file does not contain an Ed25519 key of the required kind."""
