"""The keys of a server, and the salts that keep its tenants apart."""

from __future__ import annotations

import enum
import hashlib
import hmac
from collections.abc import Iterable

from kvpool.errors import InvalidArgumentError
from kvpool.server._errors import ApiError, bad_request

__all__ = ["Keys", "SaltFrom", "salt_of"]


class SaltFrom(enum.StrEnum):
    """What tells the tenants of a server apart: sessions of different tenants share no tokens."""

    KEY = "key"
    """The key of a request. Without keys, or with one, there is one tenant."""
    USER = "user"
    """The key, and the field ``user`` of a request, which is required then."""
    NONE = "none"
    """Nothing: all requests share tokens. So the time of an answer tells whether another tenant
    has sent the same beginning of a prompt."""


class Keys:
    """The keys that a server accepts.

    Parameters
    ----------
    keys : iterable of str
        Without any, every request is accepted.

    Raises
    ------
    InvalidArgumentError
        A key is empty, or has characters that a header cannot have.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        found = list(keys)
        for key in found:
            if not key or not key.isascii() or not key.isprintable() or " " in key:
                raise InvalidArgumentError(
                    f"a key must be printable ASCII characters without spaces; one of "
                    f"{len(key)} characters is not"
                )
        self._digests = [_digest(key) for key in found]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def check(self, authorization: str | None) -> str:
        """Return a name of the key in a header, which tells nothing of the key itself.

        All keys are compared, each in constant time, so that the time tells nothing either.

        Raises
        ------
        ApiError
            The header is missing, or has another key.
        """
        if not self._digests:
            return ""
        scheme, _, key = (authorization or "").partition(" ")
        given = _digest(key.strip())
        matches = [hmac.compare_digest(given, one) for one in self._digests]
        if scheme.lower() != "bearer" or not any(matches):
            given_key = "another key" if authorization else "no key"
            raise ApiError(
                401,
                f"the request has {given_key}; send one of the server as `Authorization: Bearer …`",
                "invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return given.hex()


def salt_of(source: SaltFrom, key: str, user: str | None) -> str:
    """Return the salt of a request.

    Parameters
    ----------
    source : SaltFrom
    key : str
        From `Keys.check`.
    user : str or None

    Raises
    ------
    ApiError
        The user is needed, and not given.
    """
    if source is SaltFrom.NONE:
        return ""
    if source is SaltFrom.KEY:
        return key
    if not user:
        raise bad_request("user is missing: this server keeps the prompts of users apart", "user")
    return f"{key}/{user}"


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
