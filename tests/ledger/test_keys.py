"""Keys and salts in files: what is refused, and that nothing is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from kvpool.ledger import read_salt
from kvpool.ledger._redaction import keep_salt
from kvpool.ledger.ed25519 import Signer, generate_key_files, read_public_key, signature_is_valid
from kvpool.receipts.errors import LedgerError, LedgerOptionError, SigningKeyError


@pytest.fixture
def other_keys(tmp_path: Path) -> tuple[Path, Path]:
    """A private and a public key of another algorithm."""
    key = generate_private_key(SECP256R1())
    private, public = tmp_path / "other", tmp_path / "other.pub"
    private.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )
    public.write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


def test_a_key_that_was_made_signs_and_is_read_again(tmp_path: Path) -> None:
    private, public = generate_key_files(tmp_path / "key")
    signer = Signer(private)
    assert read_public_key(public) == signer.public_key
    assert signature_is_valid(signer.public_key, signer.sign(b"bytes"), b"bytes")
    assert not signature_is_valid(signer.public_key, signer.sign(b"bytes"), b"other bytes")
    assert not signature_is_valid("ab", signer.sign(b"bytes"), b"bytes")


def test_a_private_key_of_another_algorithm(other_keys: tuple[Path, Path]) -> None:
    with pytest.raises(SigningKeyError, match="ECPrivateKey"):
        Signer(other_keys[0])


def test_a_public_key_of_another_algorithm(other_keys: tuple[Path, Path]) -> None:
    with pytest.raises(SigningKeyError, match=r"other\.pub.*ECPublicKey"):
        read_public_key(other_keys[1])


@pytest.mark.parametrize("text", ["", "no key", "-----BEGIN PUBLIC KEY-----\nAAAA\n"])
def test_a_file_without_a_key(tmp_path: Path, text: str) -> None:
    file = tmp_path / "key"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SigningKeyError, match="key"):
        read_public_key(file)
    with pytest.raises(SigningKeyError, match="key"):
        Signer(file)


def test_a_key_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SigningKeyError, match="nowhere"):
        read_public_key(tmp_path / "nowhere")


def test_a_public_key_that_cannot_be_written_leaves_no_private_one(tmp_path: Path) -> None:
    # The name of the private key is as long as names may be, so that of the public one is not.
    private = tmp_path / ("k" * 253)
    with pytest.raises(LedgerError, match=r"cannot write .*k\.pub"):
        generate_key_files(private)
    assert list(tmp_path.iterdir()) == []


def test_a_key_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="cannot write"):
        generate_key_files(tmp_path / "nowhere" / "key")
    assert list(tmp_path.iterdir()) == []


def test_a_salt_is_made_once(tmp_path: Path) -> None:
    file = tmp_path / "salt"
    salt = keep_salt(file)
    assert keep_salt(file) == read_salt(file) == salt
    assert len(salt) == 32


def test_a_salt_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="cannot write the salt file"):
        keep_salt(tmp_path / "nowhere" / "salt")


@pytest.mark.parametrize(("text", "problem"), [("salt", "hexadecimal"), ("ab" * 31, "31 bytes")])
def test_a_file_without_a_salt(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "salt"
    file.write_text(text, encoding="ascii")
    with pytest.raises(LedgerOptionError, match=problem):
        keep_salt(file)
    assert file.read_text(encoding="ascii") == text
