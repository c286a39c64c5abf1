"""Signatures of records, with Ed25519 keys in PEM files as `kvpool receipts keygen` makes them.

A signature is over the digest of a record. It says who vouches for the record; whether that
counts, the repository says, which lists the public keys that it knows in its settings.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from milestones import settings
from milestones.errors import StackError
from milestones.records import Record, Signature

__all__ = ["is_known", "is_valid", "sign"]

_CONTEXT = b"milestones record 1\0"  # so that a signature means nothing anywhere else


def sign(record: Record, path: Path) -> Record:
    """Return a record with a signature.

    Parameters
    ----------
    record : Record
        The record.
    path : Path
        A PEM file (PKCS #8, not encrypted) with an Ed25519 private key.

    Raises
    ------
    StackError
        There is no such key in the file.
    """
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise StackError(
            f"{path} holds no Ed25519 private key that can be read: {error}",
            ["To make one: kvpool receipts keygen"],
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise StackError(f"{path} holds a {type(key).__name__}, and not an Ed25519 private key")
    public = key.public_key().public_bytes_raw().hex()
    signature = Signature(key=public, value=key.sign(_message(record)).hex())
    return record.model_copy(update={"signature": signature})


def is_valid(record: Record) -> bool:
    """Return whether the signature of a record is that of its key over its digest."""
    if record.signature is None:
        return False
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(record.signature.key))
    try:
        key.verify(bytes.fromhex(record.signature.value), _message(record))
    except InvalidSignature:
        return False
    return True


def is_known(record: Record) -> bool:
    """Return whether a record is signed by a key that the settings list."""
    return record.signature is not None and record.signature.key in settings.current().signers


def _message(record: Record) -> bytes:
    return _CONTEXT + bytes.fromhex(record.digest)
