"""`SessionKeeper`: keeps the sessions of a chat in tiers, and finds those of earlier processes."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from kvpool._escaping import printable
from kvpool.cache_key import CacheKey
from kvpool.cli._chat.session import NAMESPACE, ChatError, ChatSession
from kvpool.cli._chat.store import ChatStore
from kvpool.errors import TierError
from kvpool.prefix import Identity, token_bytes
from kvpool.tiers import StoredSession

__all__ = ["SessionKeeper"]


class _Note(msgspec.Struct, frozen=True):
    """What is kept beside the tokens of a session: neither can be had again from them."""

    model: str
    text: str
    messages: list[dict[str, str]]


class _Found(NamedTuple):
    record: StoredSession
    name: str
    note: _Note


class SessionKeeper:
    """Keeps the sessions of a chat by their names, with all that it needs to go on.

    Parameters
    ----------
    store : ChatStore
    identity : Identity
        Of the model.
    model : str
        Its name, for errors.
    """

    def __init__(self, store: ChatStore, identity: Identity, model: str) -> None:
        self._store = store
        self._identity = identity
        self._model = model

    @property
    def loaded_tokens(self) -> int:
        """Tokens that were loaded from the tiers so far."""
        return self._store.loaded_tokens

    def keep(self, session: ChatSession) -> None:
        """Have a session written behind; it has at least one token."""
        note = _Note(self._model, session.text, session.messages)
        self._store.keep(
            self._identity, session.key, token_bytes(session.tokens), msgspec.json.encode(note)
        )

    def has(self, name: str) -> bool:
        """Return whether a tier that answers keeps a session of this name, of the same model."""
        return self._store.find_session(self._identity, CacheKey(NAMESPACE, name)) is not None

    def forget(self, session: ChatSession) -> None:
        """Remove the name of a session; its keys and values stay until they are evicted.

        Raises
        ------
        TierError
            A tier does not answer, and may keep the session.
        """
        if not session.tokens:
            return
        try:
            self._store.remove_session(self._name(session.key, token_bytes(session.tokens)))
        except TierError as error:
            raise TierError(
                f"the tiers may keep session {session.name!r}: {error}; try again later, or leave "
                "the session as it is"
            ) from error

    def find(self, name: str) -> ChatSession:
        """Return a session as it was kept.

        Parameters
        ----------
        name : str
            Empty for the one that was kept last.

        Raises
        ------
        ChatError
            The tiers do not have it, or only that of another model.
        TierError
            A tier cannot be read.
        """
        wanted = self._named(name) if name else None
        if wanted is None:  # to list all sessions may take long
            found = [one for one in map(_found, self._store.sessions()) if one is not None]
            ours = [one for one in found if self._is_ours(one.record)]
            if name or not ours:
                raise ChatError(self._reason(name, found, ours))
            wanted = ours[0]
        tokens = wanted.record.tokens.tolist()
        return ChatSession(wanted.name, list(wanted.note.messages), wanted.note.text, tokens)

    def _named(self, name: str) -> _Found | None:
        record = self._store.find_session(self._identity, CacheKey(NAMESPACE, name))
        return None if record is None else _found(record)

    def _reason(self, name: str, found: list[_Found], ours: list[_Found]) -> str:
        """Return why there is no session to resume."""
        other = next((one for one in found if one not in ours and name in {"", one.name}), None)
        if other is not None:
            its, mine = other.record, self._identity.layout
            return (
                f"session {other.name!r} in the tiers is of another model "
                f"({printable(other.note.model)}, cache {its.layers} x {its.kv_heads} x "
                f"{its.head_dim} {its.dtype}) than this chat ({self._model}, cache {mine}); "
                "start the chat with the weights and the --dtype of that model"
            )
        if not ours:
            return "the tiers have no session to resume; start one without --resume"
        names = ", ".join(printable(one.name) for one in ours)
        return f"the tiers have no session {name!r} to resume; they have {names}"

    def _is_ours(self, record: StoredSession) -> bool:
        return record.name == self._name(record.key, record.tokens.tobytes())

    def _name(self, key: CacheKey, tokens: bytes) -> bytes:
        return StoredSession.of(self._identity, key, tokens, 0).name


def _found(record: StoredSession) -> _Found | None:
    """Return what a record says; None if it is not one of a chat."""
    name = record.key.id
    if record.key.namespace != NAMESPACE or not isinstance(name, str):
        return None
    try:
        return _Found(record, name, msgspec.json.decode(record.note, type=_Note))
    except msgspec.MsgspecError:  # a program has keys like those of a chat
        return None
