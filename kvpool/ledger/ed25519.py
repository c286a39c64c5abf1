"""Ed25519 keys: made, kept in PEM files, used; with the extra ``kvpool[sign]``."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from kvpool.ledger._file import write_new
from kvpool.receipts.errors import LedgerError, SigningKeyError

__all__ = ["Signer", "generate_key_files", "read_public_key", "signature_is_valid"]


class Signer:
    """Signs with one private key.

    Parameters
    ----------
    key : Ed25519PrivateKey, or path
        The key, or a PEM file (PKCS #8, not encrypted) that holds it.

    Raises
    ------
    SigningKeyError
        There is no such key in the file.

    Attributes
    ----------
    public_key : str
        The raw public key, hexadecimal.
    """

    def __init__(self, key: Ed25519PrivateKey | str | Path) -> None:
        loaded: object = key
        if isinstance(key, (str, Path)):
            loaded = _load(key, partial(serialization.load_pem_private_key, password=None))
        if not isinstance(loaded, Ed25519PrivateKey):
            raise SigningKeyError(f"{key} is not an Ed25519 private key: {type(loaded).__name__}")
        self._key = loaded
        self.public_key = loaded.public_key().public_bytes_raw().hex()

    def sign(self, data: bytes) -> str:
        """Return the signature of some bytes, hexadecimal."""
        return self._key.sign(data).hex()


def read_public_key(path: str | Path) -> str:
    """Return the public key in a PEM file: raw, hexadecimal.

    Raises
    ------
    SigningKeyError
        The file cannot be read, or does not contain an Ed25519 public key.
    """
    key = _load(path, serialization.load_pem_public_key)
    if not isinstance(key, Ed25519PublicKey):
        raise SigningKeyError(f"{path} is not an Ed25519 public key: {type(key).__name__}")
    return key.public_bytes_raw().hex()


def signature_is_valid(public_key: str, signature: str, data: bytes) -> bool:
    """Tell whether a signature was made over `data` with the private half of a key.

    Parameters
    ----------
    public_key, signature : str
        Hexadecimal, 32 and 64 bytes.
    """
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
        key.verify(bytes.fromhex(signature), data)
    except (InvalidSignature, ValueError):
        return False
    return True


def generate_key_files(private: str | Path) -> tuple[Path, Path]:
    """Make a new key and write both halves as PEM files.

    Parameters
    ----------
    private : path
        For the private key: readable by its owner only. The public key gets the same name
        with ``.pub`` behind.

    Returns
    -------
    tuple of Path
        The private and the public file.

    Raises
    ------
    LedgerError
        One of the files is there already, or cannot be written; none is left half done.
    """
    files = Path(private), Path(f"{private}.pub")
    for file in files:
        if os.path.lexists(file):
            raise LedgerError(f"{file} is there already: a key is not overwritten")
    key = Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    _write_new(files[0], secret, 0o600)
    try:
        _write_new(files[1], public, 0o644)
    except BaseException:
        files[0].unlink()
        raise
    return files


def _write_new(path: Path, data: bytes, mode: int) -> None:
    try:
        write_new(path, data, mode)
    except OSError as error:
        raise LedgerError(f"cannot write {path}: {error}") from error


def _load(path: str | Path, parse: Callable[[bytes], object]) -> object:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise SigningKeyError(f"cannot read the key file {path}: {error}") from error
    try:
        return parse(data)
    except Exception as error:  # of many kinds: malformed, encrypted, of an unknown algorithm
        raise SigningKeyError(f"{path} holds no key that can be read: {error}") from error
