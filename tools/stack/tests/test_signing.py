"""Signed records: by a known key, by another one, and with a signature that is not theirs."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519

from milestones.evidence import Store
from milestones.records import to_line

from .scratch import Scratch
from .test_status import prove


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """The file of a private key, and its public key beside it."""
    path = tmp_path / "key.pem"
    return write(path, ed25519.Ed25519PrivateKey.generate())


def write(path: Path, key: ed25519.Ed25519PrivateKey | x25519.X25519PrivateKey) -> Path:
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    path.with_suffix(".pub").write_text(key.public_key().public_bytes_raw().hex())
    return path


def text_of(scratch: Scratch) -> str:
    return str(scratch.status()["demo/1"]["evidence"]["text"])


def test_a_record_is_signed_by_a_key_that_the_repository_knows(scratch: Scratch, key: Path) -> None:
    prove(scratch, 1)
    assert text_of(scratch) == "6/6"
    assert scratch.run("sign", str(key)).text.startswith("demo/1: signed ")
    assert text_of(scratch) == "6/6 (signed by a key that is not known here)"
    public = key.with_suffix(".pub").read_text()
    scratch.write({"pyproject.toml": f'[tool.milestones]\nsigners = ["{public}"]\n'})
    assert text_of(scratch) == "6/6 (signed)"
    assert scratch.status()["demo/1"]["evidence"]["runs"] == 1  # the same run, signed or not


def test_a_signature_of_another_record_does_not_count(scratch: Scratch, key: Path) -> None:
    prove(scratch, 1, 2)
    scratch.run("sign", str(key), "demo/2")
    store = Store(scratch.repository)
    signed = [one.record for one in store.read() if one.record and one.record.signature]
    taken = signed[0].signature
    (own,) = [one.record for one in store.read() if one.record and one.milestone == "demo/1"]
    store.add(own.model_copy(update={"signature": taken}))
    evidence = scratch.status()["demo/1"]["evidence"]
    assert evidence["text"] == "6/6"
    assert [one.partition(": ")[2] for one in evidence["faults"]] == ["its signature does not fit"]


def test_what_is_not_green_is_not_signed(scratch: Scratch, key: Path) -> None:
    said = scratch.run("sign", str(key), "demo/1")
    assert said.text == "demo/1 has no green record to sign: no record"
    assert scratch.run("sign", str(key), "demo/9").text.startswith("there is no milestone 'demo/9'")


def test_a_file_without_such_a_key_is_refused(scratch: Scratch, tmp_path: Path) -> None:
    prove(scratch, 1)
    before = [to_line(one.record) for one in Store(scratch.repository).read() if one.record]
    wrong = write(tmp_path / "wrong.pem", x25519.X25519PrivateKey.generate())
    said = scratch.run("sign", str(wrong), "demo/1")
    assert said.text == f"{wrong} holds a X25519PrivateKey, and not an Ed25519 private key"
    said = scratch.run("sign", str(tmp_path / "absent.pem"), "demo/1")
    assert said.text.startswith(f"{tmp_path / 'absent.pem'} holds no Ed25519 private key")
    after = [to_line(one.record) for one in Store(scratch.repository).read() if one.record]
    assert after == before
