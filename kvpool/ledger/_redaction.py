"""Session ids as salted digests, so that a ledger can be handed to others."""

from __future__ import annotations

import secrets
from hashlib import blake2b
from pathlib import Path

import msgspec

from kvpool.ledger._file import write_new
from kvpool.ledger._lines import Redaction
from kvpool.receipts.errors import LedgerError, LedgerOptionError
from kvpool.receipts.types import (
    KvEvictionReceipt,
    KvTierLoadReceipt,
    KvTierRefusalReceipt,
    Receipt,
)

__all__ = ["SALT_BYTES", "Redactor", "keep_salt", "read_salt", "salt_file"]

SALT_BYTES = 32


class Redactor:
    """Replaces session ids by keyed BLAKE2b digests of 128 bits, hexadecimal.

    One id has one digest in all of a ledger, so its evictions can be followed. Without the
    salt a digest cannot be compared with a guessed id; with it, it can.

    Parameters
    ----------
    salt : bytes
        32 bytes, known to the owner of the ledger only.

    Raises
    ------
    LedgerOptionError
        The salt has another length.

    Examples
    --------
    >>> Redactor(bytes(32)).digest("chat/1")
    '95e25bfe006facc36eac7dfb4fe6d21f'
    """

    def __init__(self, salt: bytes) -> None:
        if len(salt) != SALT_BYTES:
            raise LedgerOptionError(f"invalid salt of {len(salt)} bytes; expected {SALT_BYTES}")
        self._salt = salt
        salt_id = blake2b(key=salt, digest_size=16, person=b"kvpool salt id").hexdigest()
        self.redaction = Redaction(algorithm="blake2b-128", salt_id=salt_id)

    def digest(self, session_id: str) -> str:
        """Return what stands for a session id."""
        data = session_id.encode("utf-8", "backslashreplace")
        return blake2b(data, key=self._salt, digest_size=16, person=b"kvpool session").hexdigest()

    def redact(self, receipt: Receipt) -> Receipt:
        """Return a receipt without a session id that could be read."""
        if isinstance(receipt, KvEvictionReceipt | KvTierLoadReceipt):
            digest = self.digest(receipt.session_id)
            return msgspec.structs.replace(receipt, session_id=digest)
        if isinstance(receipt, KvTierRefusalReceipt):  # a name tells of tokens to who guesses them
            digest, chunk = self.digest(receipt.session_id), self.digest(receipt.chunk)
            return msgspec.structs.replace(receipt, session_id=digest, chunk=chunk)
        return receipt


def salt_file(ledger: Path) -> Path:
    """Return where the salt of a ledger is kept unless its owner gives one."""
    return ledger.with_name(f"{ledger.name}.salt")


def read_salt(path: str | Path) -> bytes:
    """Read a salt file: 64 hexadecimal digits.

    Raises
    ------
    LedgerError
        The file cannot be read.
    LedgerOptionError
        The file does not contain a salt.
    """
    try:
        text = Path(path).read_text(encoding="ascii")
        salt = bytes.fromhex(text)
    except OSError as error:
        raise LedgerError(f"cannot read the salt file {path}: {error}") from error
    except ValueError:
        raise LedgerOptionError(
            f"the salt file {path} does not contain hexadecimal digits"
        ) from None
    if len(salt) != SALT_BYTES:
        raise LedgerOptionError(f"the salt in {path} has {len(salt)} bytes, not {SALT_BYTES}")
    return salt


def keep_salt(path: Path) -> bytes:
    """Return the salt in a file, which is made with a new salt if it is missing.

    Raises
    ------
    LedgerError
        The file cannot be read or written.
    LedgerOptionError
        The file does not contain a salt.
    """
    salt = secrets.token_bytes(SALT_BYTES)
    try:
        write_new(path, f"{salt.hex()}\n".encode("ascii"), 0o600)
    except FileExistsError:
        return read_salt(path)
    except OSError as error:
        raise LedgerError(f"cannot write the salt file {path}: {error}") from error
    return salt
