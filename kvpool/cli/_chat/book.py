"""The sessions of a chat: the conversation of each, and its entry in the pool."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from kvpool.cli._chat.keeping import SessionKeeper
from kvpool.cli._chat.session import ChatError, ChatSession, Turn
from kvpool.entry import KVCacheEntry
from kvpool.manager import KVCacheManager

if TYPE_CHECKING:
    from kvpool.integrations.chat import ChatModel, Listener, Prompt

__all__ = ["FIRST_NAME", "SessionBook"]

FIRST_NAME = "main"
LONGEST_NAME = 24


class SessionBook:
    """Sessions by name; one of them is the current one.

    Parameters
    ----------
    manager : KVCacheManager
    model : ChatModel
    system : str, optional
        System prompt of every conversation.
    max_context_length : int, optional
        Most tokens of a session; by default the limit of the model.
    keeper : SessionKeeper, optional
        Keeps each session in tiers after each answer.
    resumed : ChatSession, optional
        The session to go on with. [default: a new one, "main", or "main-2" and so
        on if the tiers keep one of that name]
    clock : callable, default `time.monotonic`
        Returns seconds.

    Attributes
    ----------
    manager, model
    current : ChatSession

    Notes
    -----
    The pool may evict any session except the one that is answering. The conversation stays
    here, and its tokens are computed again when the session continues.
    """

    def __init__(
        self,
        manager: KVCacheManager,
        model: ChatModel,
        system: str | None = None,
        max_context_length: int | None = None,
        *,
        keeper: SessionKeeper | None = None,
        resumed: ChatSession | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.manager = manager
        self.model = model
        limits = (max_context_length, model.max_context_length)
        self.max_context_length = min((one for one in limits if one is not None), default=None)
        self._opening = [] if system is None else [{"role": "system", "content": system}]
        self._keeper = keeper
        self._clock = clock
        self._sessions: dict[str, ChatSession] = {}
        self.current = (
            self._add(self._unkept(FIRST_NAME)) if resumed is None else self._use(resumed)
        )

    def __iter__(self) -> Iterator[ChatSession]:
        return iter(self._sessions.values())

    def names(self) -> list[str]:
        """Return the names of all sessions, in the order of their creation."""
        return list(self._sessions)

    @property
    def loaded_tokens(self) -> int | None:
        """Tokens that were loaded from tiers so far; None if there is no tier."""
        return None if self._keeper is None else self._keeper.loaded_tokens

    @property
    def remedy(self) -> str:
        """What happens to the tokens of an evicted session when it continues."""
        return "computed again" if self._keeper is None else "loaded or computed again"

    # -- sessions ------------------------------------------------------------------------

    def load(self) -> int:
        """Load the tokens of the current session; return how many of them the pool holds then.

        Raises
        ------
        ContextOverflowError, PoolExhaustedError
            The session does not fit. Nothing has changed.
        """
        session = self._use(self.current)
        self.model.begin(self.manager, session.tokens, session.key)
        session.entry = self._entry_of(session)
        return session.held

    def new(self, name: str) -> ChatSession:
        """Begin a session and make it the current one.

        Raises
        ------
        ChatError
            The name is taken or invalid.
        """
        self.current = self._add(self._free_name(name))
        return self.current

    def switch(self, name: str) -> ChatSession:
        """Make another session the current one.

        Raises
        ------
        ChatError
            No session has this name.
        """
        self.current = self._get(name)
        return self.current

    def fork(self, name: str) -> ChatSession:
        """Fork the current session and make the fork the current one.

        Raises
        ------
        ChatError
            The name is taken or invalid.
        PoolExhaustedError
            The pool has too little free memory for both.
        """
        parent = self.current
        fork = ChatSession(
            self._free_name(name), list(parent.messages), parent.text, list(parent.tokens)
        )
        if parent.key in self.manager:
            self.manager.pin(parent.key)  # it is not evicted for its fork
            try:
                self.model.begin(self.manager, parent.tokens, fork.key)
            finally:
                self.manager.unpin(parent.key)
            fork.entry = self._entry_of(fork)
        if fork.tokens:
            self._keep(fork)
        self.current = self._use(fork)
        return fork

    def drop(self, name: str) -> ChatSession:
        """Remove a session; if it is the current one, the one used last before it becomes current.

        Raises
        ------
        ChatError
            No session has this name.
        TierError
            A tier does not answer, and may keep it. The chat has not changed.
        """
        dropped = self._get(name)
        self._forget(dropped)
        self.manager.remove_cache_entry(dropped.key)
        del self._sessions[name]
        if dropped is self.current:
            others = sorted(self, key=lambda session: session.used_at)
            self.current = others[-1] if others else self._add(self._unkept(FIRST_NAME))
        return dropped

    def reset(self) -> ChatSession:
        """Empty the current session.

        Raises
        ------
        TierError
            A tier does not answer, and may keep it. The chat has not changed.
        """
        session = self.current
        self._forget(session)
        self.manager.remove_cache_entry(session.key)
        session.entry = None
        session.messages, session.text, session.tokens = list(self._opening), "", []
        return session

    def evicted(self) -> list[ChatSession]:
        """Return the sessions that the pool evicted since the last call."""
        gone = [
            session
            for session in self
            if session.entry is not None and session.key not in self.manager
        ]
        for session in gone:
            session.entry = None
        return gone

    # -- a turn --------------------------------------------------------------------------

    def ask(self, text: str, max_new_tokens: int, listener: Listener) -> Turn:
        """Add a message to the current session, and have the model answer it.

        Only tokens that no session in the pool holds are computed. If the model produces no token,
        the message is dropped; otherwise the message and the tokens so far are kept.

        A session that has said nothing yet gets another name, if another chat has kept one of its
        name in the tiers meanwhile.

        Parameters
        ----------
        text : str
        max_new_tokens : int
        listener : Listener
            Receives the tokens of the answer one by one.

        Raises
        ------
        ChatError
            The session would exceed `max_context_length`.
        ChatModelError
            The model's chat template refuses the message.
        PoolExhaustedError
            The pool has too little memory for the session.
        """
        session = self._use(self.current)
        if not session.tokens:
            self._claim_name(session)
        messages = [*session.messages, {"role": "user", "content": text}]
        prompt = self.model.prompt(messages, session.text, session.tokens)
        limit = self._answer_limit(prompt, max_new_tokens)
        recorder, loaded = _Recorder(listener), self.loaded_tokens or 0
        try:
            reused = self.model.answer(self.manager, session.key, prompt, limit, recorder)
        finally:
            session.entry = self._entry_of(session)
            if recorder.tokens:
                self._record(session, messages, prompt, recorder.tokens)
        session.used_at = self._clock()
        was_stopped = listener.should_stop()
        has_ended = bool(recorder.tokens) and self.model.is_end(recorder.tokens[-1])
        return Turn(
            prompt_tokens=len(prompt.tokens),
            reused_tokens=reused,
            loaded_tokens=(self.loaded_tokens or 0) - loaded,
            answer_tokens=len(recorder.tokens),
            was_stopped=was_stopped,
            is_open=not has_ended,
        )

    def _answer_limit(self, prompt: Prompt, max_new_tokens: int) -> int:
        """Return how many tokens the answer may have."""
        limit = self.max_context_length
        if limit is None:
            return max_new_tokens
        if len(prompt.tokens) >= limit:
            raise ChatError(
                f"session {self.current.name!r} would have {len(prompt.tokens):,} tokens, but at "
                f"most {limit:,} are allowed; shorten the message, /reset it, or use a /new one"
            )
        return min(max_new_tokens, limit - len(prompt.tokens))

    def _record(
        self,
        session: ChatSession,
        messages: list[dict[str, str]],
        prompt: Prompt,
        answer: list[int],
    ) -> None:
        """Add message and answer. The end token is left out, because the template writes it."""
        said = answer[:-1] if self.model.is_end(answer[-1]) else answer
        content = self.model.text_of(said)
        session.messages = [*messages, {"role": "assistant", "content": content}]
        session.text = prompt.text + self.model.text_of(said, special=True)
        session.tokens = prompt.tokens + said
        self._keep(session)

    # -- inside --------------------------------------------------------------------------

    def _keep(self, session: ChatSession) -> None:
        if self._keeper is not None:
            self._keeper.keep(session)

    def _forget(self, session: ChatSession) -> None:
        if self._keeper is not None:
            self._keeper.forget(session)

    def _add(self, name: str) -> ChatSession:
        return self._use(ChatSession(name, list(self._opening)))

    def _use(self, session: ChatSession) -> ChatSession:
        self._sessions[session.name] = session
        session.used_at = self._clock()
        return session

    def _get(self, name: str) -> ChatSession:
        if name not in self._sessions:
            raise ChatError(f"unknown session {name!r}; /sessions lists all")
        return self._sessions[name]

    def _is_kept(self, name: str) -> bool:
        """Return whether the tiers keep a session of this name, of an earlier or another chat."""
        return self._keeper is not None and self._keeper.has(name)

    def _unkept(self, name: str) -> str:
        """Return a name that no session has, in the chat or in the tiers."""
        names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        return next(one for one in names if one not in self._sessions and not self._is_kept(one))

    def _claim_name(self, session: ChatSession) -> None:
        """Rename a session if its first answer would take the place of another chat's session."""
        if self._is_kept(session.name):
            name = self._unkept(session.name)
            del self._sessions[session.name]
            session.name = name
            self._sessions[name] = session

    def _free_name(self, name: str) -> str:
        if name in self._sessions:
            raise ChatError(f"session {name!r} already exists; use /switch {name}")
        is_word = name.isprintable() and not any(map(str.isspace, name))
        if not is_word or not 1 <= len(name) <= LONGEST_NAME:
            raise ChatError(
                f"invalid name {name!r}; use 1 to {LONGEST_NAME} printable characters, not spaces"
            )
        if self._is_kept(name):
            raise ChatError(
                f"the tiers keep session {name!r} of another chat; use another name, or go on with "
                f"it in a chat with --resume {name}"
            )
        return name

    def _entry_of(self, session: ChatSession) -> KVCacheEntry | None:
        entry = self.manager.get_cache_entry(session.key)
        return entry if isinstance(entry, KVCacheEntry) else None


class _Recorder:
    """Keeps the tokens of an answer, and passes them on to a listener."""

    def __init__(self, listener: Listener) -> None:
        self.tokens: list[int] = []
        self.on_read = listener.on_read
        self.should_stop = listener.should_stop
        self._pass_on = listener.on_token

    def on_token(self, token: int) -> None:
        self.tokens.append(token)
        self._pass_on(token)
