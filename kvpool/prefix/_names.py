"""`chunk_names`: names of chunks that are equal in every process for equal tokens."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator

import numpy as np

from kvpool.prefix._identity import Identity
from kvpool.prefix._tokens import TOKEN_BYTES

__all__ = ["chunk_names", "names_behind", "root_name"]

_PURPOSE = b"kvpool chunk names 1"


def chunk_names(identity: Identity, tokens: bytes, chunk_tokens: int) -> Iterator[bytes]:
    """Yield the name of each whole chunk of a sequence, the first chunk first.

    A name is the SHA-256 digest of the name before it and of the tokens of the chunk. The name
    before the first chunk is made from the identity, so that sequences of different identities
    never have a name in common.

    Parameters
    ----------
    identity : Identity
    tokens : bytes
        See `token_bytes`. Tokens behind the last whole chunk are ignored.
    chunk_tokens : int
        Tokens of a chunk, at least 1.
    """
    return names_behind(root_name(identity), tokens, chunk_tokens)


def names_behind(name: bytes, tokens: bytes, chunk_tokens: int) -> Iterator[bytes]:
    """Yield the name of each whole chunk of some tokens that follow a chunk with a name.

    Parameters
    ----------
    name : bytes
        Of the chunk before; see `root_name` if there is none.
    tokens : bytes
        From the end of that chunk on; see `token_bytes`.
    chunk_tokens : int
        Tokens of a chunk, at least 1.
    """
    size = chunk_tokens * TOKEN_BYTES
    data = np.frombuffer(tokens, np.int64).astype("<i8", copy=False).tobytes()
    for start in range(0, len(data) - size + 1, size):
        name = hashlib.sha256(name + data[start : start + size]).digest()
        yield name


@functools.lru_cache(maxsize=1024)
def root_name(identity: Identity) -> bytes:
    """Return the name that comes before the first chunk.

    The salt goes through scrypt, because a reader of names may try salts: each try then costs
    milliseconds and megabytes.
    """
    secret = hashlib.scrypt(
        identity.salt.encode("utf-8", "surrogatepass"), salt=_PURPOSE, n=1 << 13, r=8, p=1
    )
    digest = hashlib.sha256(secret)
    for text in identity.model_id, repr(identity.layout):
        part = text.encode("utf-8", "surrogatepass")
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()
