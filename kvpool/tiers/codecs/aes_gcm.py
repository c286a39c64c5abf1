"""The codec ``aes-gcm``: bytes that are encrypted and authenticated, by AES in Galois counter mode.

The header of the chunk is authenticated with them, so that one chunk cannot be put in the place of
another. The header itself can be read by all: it has the model id, the layout, the number of
tokens and names, which are salted digests, and no token.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from kvpool import _optional_imports
from kvpool.errors import ChunkError, InvalidTierError
from kvpool.hookspecs import hookimpl
from kvpool.tiers._base import Part
from kvpool.tiers._codec import Codec, CodecFactory, Form

__all__ = ["AesGcmCodec", "kvpool_codec"]

_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_KEY_BYTES: Final = (16, 24, 32)


class AesGcmCodec(Codec):
    """AES-GCM with a random nonce for each chunk.

    Parameters
    ----------
    key : bytes
        16, 24 or 32 bytes.

    Raises
    ------
    InvalidTierError
        The key has another size.
    MissingExtraError
        The extra ``kvpool[encrypt]`` is not installed.

    Notes
    -----
    A nonce has 96 random bits, so one key is good for 2**32 chunks (NIST SP 800-38D, 8.3).
    """

    name = "aes-gcm"
    is_cipher = True

    def __init__(self, key: bytes) -> None:
        if len(key) not in _KEY_BYTES:
            raise InvalidTierError(f"a key of AES has 16, 24 or 32 bytes, not {len(key)}")
        module = "cryptography.hazmat.primitives.ciphers.aead"
        self._cipher = _optional_imports.load(module, "encrypt", "the codec 'aes-gcm'").AESGCM(key)
        self._wrong = _optional_imports.load(
            "cryptography.exceptions", "encrypt", "the codec 'aes-gcm'"
        ).InvalidTag

    def encode(self, data: memoryview, form: Form, /) -> Sequence[Part]:
        """Return a nonce, and the encrypted bytes with their tag; see `Codec.encode`."""
        nonce = os.urandom(_NONCE_BYTES)
        return [nonce, self._cipher.encrypt(nonce, data, form.about)]

    def decode(self, data: memoryview, form: Form, /) -> Part:
        """Return what was encrypted; see `Codec.decode`."""
        if data.nbytes < _NONCE_BYTES + _TAG_BYTES:
            raise ChunkError("the chunk is shorter than a nonce and a tag", "payload")
        nonce = bytes(data[:_NONCE_BYTES])
        try:
            plain: bytes = self._cipher.decrypt(nonce, data[_NONCE_BYTES:], form.about)
        except self._wrong:
            raise ChunkError(
                "the chunk was encrypted with another key, or was changed", "key"
            ) from None
        return plain

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


def _create(*, key: str = "env:KVPOOL_TIER_KEY") -> Codec:
    """Create the codec with the key of a file, or of an environment variable."""
    if key.startswith("env:"):
        name = key.removeprefix("env:")
        text = os.environ.get(name, "")
        if not text:
            raise InvalidTierError(f"the environment variable {name} has no key for 'aes-gcm'")
        return AesGcmCodec(_key_of(text.encode(), f"the environment variable {name}"))
    path = Path(key).expanduser()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidTierError(f"the key of 'aes-gcm' cannot be read: {error}") from error
    return AesGcmCodec(_key_of(content, f"the file {path}"))


def _key_of(content: bytes, where: str) -> bytes:
    """Return a key that is written in hexadecimal digits, in Base64, or as bytes."""
    text = content.strip()
    for decode in (binascii.unhexlify, lambda coded: base64.b64decode(coded, validate=True)):
        try:
            key = decode(text)
        except (binascii.Error, ValueError):
            continue
        if len(key) in _KEY_BYTES:
            return key
    if len(content) in _KEY_BYTES:
        return content
    raise InvalidTierError(
        f"{where} must hold a key of 16, 24 or 32 bytes, as they are, in hexadecimal digits or "
        "in Base64"
    )


@hookimpl
def kvpool_codec() -> CodecFactory:
    """Describe the codec to kvpool."""
    return CodecFactory(
        create=_create,
        summary="encrypted with AES-GCM",
        options={
            "key": "file with the key, or env:NAME [default: env:KVPOOL_TIER_KEY]",
        },
        modules=("cryptography",),
        extra="kvpool[encrypt]",
    )
