"""The sessions of a chat: what was said in each, and what of it the pool holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from kvpool.cli._chat.session import ChatError, ChatSession, Turn
from kvpool.entry import KVCacheEntry
from kvpool.manager import KVCacheManager

if TYPE_CHECKING:
    from kvpool.integrations.chat import ChatModel, Listener, Prompt

__all__ = ["SessionBook"]

LONGEST_NAME = 24


class SessionBook:
    """Sessions by name, one of them the present one.

    Parameters
    ----------
    manager : KVCacheManager
    model : ChatModel
    system : str, optional
        What every conversation begins with.
    max_context_length : int, optional
        Tokens that a session may hold; by default what the model can attend to.
    clock : callable, default `time.monotonic`
        Returns seconds.

    Attributes
    ----------
    manager, model
    present : ChatSession

    Notes
    -----
    The pool may take any session back but the one that is answering. What was said stays here,
    and its tokens are computed again when it is needed.
    """

    def __init__(
        self,
        manager: KVCacheManager,
        model: ChatModel,
        system: str | None = None,
        max_context_length: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.manager = manager
        self.model = model
        limits = (max_context_length, model.max_context_length)
        self.max_context_length = min((one for one in limits if one is not None), default=None)
        self._opening = [] if system is None else [{"role": "system", "content": system}]
        self._clock = clock
        self._sessions: dict[str, ChatSession] = {}
        self.present = self._add("main")

    def __iter__(self) -> Iterator[ChatSession]:
        return iter(self._sessions.values())

    def names(self) -> list[str]:
        """Return the names of all sessions, the oldest session first."""
        return list(self._sessions)

    # -- sessions ------------------------------------------------------------------------

    def new(self, name: str) -> ChatSession:
        """Begin a conversation, and turn to it.

        Raises
        ------
        ChatError
            The name is taken, or is none.
        """
        self.present = self._add(self._free_name(name))
        return self.present

    def switch(self, name: str) -> ChatSession:
        """Turn to another session.

        Raises
        ------
        ChatError
            There is none of that name.
        """
        self.present = self._get(name)
        return self.present

    def fork(self, name: str) -> ChatSession:
        """Begin a session with everything that the present one holds, and turn to it.

        Raises
        ------
        ChatError
            The name is taken, or is none.
        PoolExhaustedError
            The pool has no room for both.
        """
        parent = self.present
        fork = ChatSession(
            self._free_name(name), list(parent.messages), parent.text, list(parent.tokens)
        )
        if parent.key in self.manager:
            self.model.fork(self.manager, parent.key, fork.key)
            fork.entry = self._entry_of(fork)
        self.present = self._use(fork)
        return fork

    def drop(self, name: str) -> ChatSession:
        """Forget a session; in place of the present one comes the one used last before it.

        Raises
        ------
        ChatError
            There is none of that name.
        """
        dropped = self._get(name)
        self.manager.remove_cache_entry(dropped.key)
        del self._sessions[name]
        if dropped is self.present:
            others = sorted(self, key=lambda session: session.used_at)
            self.present = others[-1] if others else self._add("main")
        return dropped

    def reset(self) -> ChatSession:
        """Forget what was said in the present session."""
        session = self.present
        self.manager.remove_cache_entry(session.key)
        session.entry = None
        session.messages, session.text, session.tokens = list(self._opening), "", []
        return session

    def evicted(self) -> list[ChatSession]:
        """Return the sessions that the pool took back since this was asked for last."""
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
        """Say something in the present session, and have it answered.

        Only tokens that the pool does not hold are computed. If no token of an answer comes,
        for whatever reason, nothing was said; else what there is of the answer stays.

        Parameters
        ----------
        text : str
        max_new_tokens : int
        listener : Listener
            Takes the tokens of the answer as they come.

        Raises
        ------
        ChatError
            The session has no room for it.
        ChatModelError
            The model's chat template refuses it.
        PoolExhaustedError
            The session does not fit the pool.
        """
        session = self._use(self.present)
        messages = [*session.messages, {"role": "user", "content": text}]
        prompt = self.model.prompt(messages, session.text, session.tokens)
        room = self._room_behind(prompt, max_new_tokens)
        recorder = _Recorder(listener)
        reused = min(session.held, prompt.kept) if session.key in self.manager else 0
        try:
            self.model.answer(self.manager, session.key, prompt, room, recorder)
        finally:
            session.entry = self._entry_of(session)
            if recorder.tokens:
                self._record(session, messages, prompt, recorder.tokens)
            elif session.held > prompt.kept:
                self.model.keep(self.manager, session.key, prompt.kept)
        session.used_at = self._clock()
        was_stopped = listener.should_stop()
        has_ended = bool(recorder.tokens) and self.model.is_end(recorder.tokens[-1])
        return Turn(len(prompt.tokens), reused, len(recorder.tokens), was_stopped, not has_ended)

    def _room_behind(self, prompt: Prompt, max_new_tokens: int) -> int:
        """Return how long an answer may be."""
        limit = self.max_context_length
        if limit is None:
            return max_new_tokens
        if len(prompt.tokens) >= limit:
            raise ChatError(
                f"session {self.present.name!r} would have {len(prompt.tokens):,} tokens, "
                f"and may have {limit:,}: say less, /reset it, or begin a /new one"
            )
        return min(max_new_tokens, limit - len(prompt.tokens))

    def _record(
        self,
        session: ChatSession,
        messages: list[dict[str, str]],
        prompt: Prompt,
        answer: list[int],
    ) -> None:
        """Note what was said. The end of an answer is the template's to write, not the model's."""
        said = answer[:-1] if self.model.is_end(answer[-1]) else answer
        content = self.model.text_of(said)
        session.messages = [*messages, {"role": "assistant", "content": content}]
        session.text = prompt.text + self.model.text_of(said, special=True)
        session.tokens = prompt.tokens + said

    # -- inside --------------------------------------------------------------------------

    def _add(self, name: str) -> ChatSession:
        return self._use(ChatSession(name, list(self._opening)))

    def _use(self, session: ChatSession) -> ChatSession:
        self._sessions[session.name] = session
        session.used_at = self._clock()
        return session

    def _get(self, name: str) -> ChatSession:
        if name not in self._sessions:
            raise ChatError(f"there is no session {name!r}; /sessions shows which there are")
        return self._sessions[name]

    def _free_name(self, name: str) -> str:
        if name in self._sessions:
            raise ChatError(f"there is a session {name!r} already; /switch {name} turns to it")
        is_word = name.isprintable() and not any(map(str.isspace, name))
        if not is_word or not 1 <= len(name) <= LONGEST_NAME:
            raise ChatError(
                f"{name!r} is no name: at most {LONGEST_NAME} letters or signs, without spaces"
            )
        return name

    def _entry_of(self, session: ChatSession) -> KVCacheEntry | None:
        entry = self.manager.get_cache_entry(session.key)
        return entry if isinstance(entry, KVCacheEntry) else None


class _Recorder:
    """Keeps the tokens of an answer, and hands everything on."""

    def __init__(self, listener: Listener) -> None:
        self.tokens: list[int] = []
        self.on_read = listener.on_read
        self.should_stop = listener.should_stop
        self._hand_on = listener.on_token

    def on_token(self, token: int) -> None:
        self.tokens.append(token)
        self._hand_on(token)
