"""`Generation`: what a request gets, piece by piece, in threads and in asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

from kvpool._process import current, in_child_of

__all__ = [
    "Completion",
    "FinishReason",
    "Generation",
    "Stream",
    "TokenLogprob",
    "TokenPiece",
    "Usage",
]

FinishReason = Literal["stop", "length", "cancelled", "deadline", "error"]
"""Why a generation ended: by an end token or a stop text; by `max_tokens`; by `Generation.cancel`
or the end of the engine; by its deadline; by an error."""


class Usage(NamedTuple):
    """How many tokens a request took.

    Parameters
    ----------
    prompt_tokens : int
    cached_tokens : int
        Those of the prompt that were in the pool, and not computed.
    completion_tokens : int
        Tokens generated so far.
    """

    prompt_tokens: int
    cached_tokens: int = 0
    completion_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Tokens of the prompt and of the answer."""
        return self.prompt_tokens + self.completion_tokens


class TokenLogprob(NamedTuple):
    """How likely the model found a token, before the sampling of the request changed that.

    Parameters
    ----------
    token_id : int
    text : str
        Of the token alone; that of a part of a character is a replacement character.
    logprob : float
        Natural logarithm of its probability.
    alternatives : tuple of TokenLogprob
        The likeliest tokens, as many as were asked for; these have none.
    """

    token_id: int
    text: str
    logprob: float
    alternatives: tuple[TokenLogprob, ...] = ()


class TokenPiece(NamedTuple):
    """A piece of an answer.

    Parameters
    ----------
    text : str
        What is complete now and was not before: whole characters, and no part of a stop text.
    token_ids : tuple of int
        The tokens that came since the piece before.
    finish_reason : str or None
        Set in the last piece; see `FinishReason`.
    logprobs : tuple of TokenLogprob
        One for each of the token ids, if the request asked for them.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer.

    Parameters
    ----------
    text : str
    token_ids : tuple of int
        All that were generated, with the end token and the tokens of a stop text.
    finish_reason : str
        See `FinishReason`.
    usage : Usage
    logprobs : tuple of TokenLogprob
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    logprobs: tuple[TokenLogprob, ...] = ()


class Stream:
    """The pieces of one answer: the engine puts them in, any number of readers take them out.

    Parameters
    ----------
    usage : Usage

    Attributes
    ----------
    usage : Usage
        As of now.
    error : Exception or None
    """

    def __init__(self, usage: Usage) -> None:
        self.usage = usage
        self.error: Exception | None = None
        self._owner = current.pid
        self._pieces: list[TokenPiece] = []
        # Not a condition: one that Ctrl-C interrupts as a reader enters it is never left, and the
        # engine's thread would wait for it.
        self._lock = threading.Lock()
        self._wakers: list[Callable[[], object]] = []  # of readers that wait

    @property
    def is_done(self) -> bool:
        """Whether the last piece is there."""
        return bool(self._pieces) and self._pieces[-1].finish_reason is not None

    def put(self, piece: TokenPiece) -> None:
        """Add a piece, and wake all readers."""
        with self._lock:
            self._pieces.append(piece)
            wakers, self._wakers = self._wakers, []
        for wake in wakers:
            with contextlib.suppress(RuntimeError):  # it is awake, or its event loop is closed
                wake()

    def pieces(self) -> list[TokenPiece]:
        """Return all pieces so far."""
        return self._pieces.copy()

    def wait(self, number: float, timeout: float | None = None) -> bool:
        """Wait for more than `number` pieces, or the last one; return False if time is up."""
        if self._has(number):
            return True
        self._check_process()
        deadline = None if timeout is None else time.monotonic() + timeout
        bell = threading.Lock()
        bell.acquire(blocking=False)
        try:
            return self._wait_for(number, deadline, bell)
        finally:
            self._forget(bell.release)

    def _wait_for(self, number: float, deadline: float | None, bell: threading.Lock) -> bool:
        while self._waits(number, bell.release):
            left = -1 if deadline is None else deadline - time.monotonic()
            if deadline is not None and left <= 0:
                return False
            bell.acquire(timeout=min(left, threading.TIMEOUT_MAX))
        return True

    async def wait_in_loop(self, number: float) -> None:
        """Wait as `wait` does, and let the event loop go on meanwhile."""
        if self._has(number):
            return
        self._check_process()
        loop = asyncio.get_running_loop()
        while True:
            woken = loop.create_future()
            wake = functools.partial(loop.call_soon_threadsafe, _resolve, woken)
            try:
                if not self._waits(number, wake):
                    return
                await woken
            finally:
                self._forget(wake)

    def _waits(self, number: float, wake: Callable[[], object]) -> bool:
        """Return whether a reader must wait; if so, the next piece wakes it."""
        with self._lock:
            if self._has(number):
                return False
            if wake not in self._wakers:
                self._wakers.append(wake)
        return True

    def _forget(self, wake: Callable[[], object]) -> None:
        """Wake a reader no more."""
        with self._lock:
            if wake in self._wakers:
                self._wakers.remove(wake)

    def _check_process(self) -> None:
        """Refuse to wait in a child of `os.fork`, which has no thread of an engine."""
        if self._owner != current.pid:
            raise in_child_of(self._owner, "engine")

    def _has(self, number: float) -> bool:
        return len(self._pieces) > number or self.is_done

    def piece(self, number: int) -> TokenPiece | None:
        """Return a piece, which must be there or have been the last; None after the last one.

        Raises
        ------
        Exception
            The generation failed, and its last piece is through.
        """
        if number < len(self._pieces):
            return self._pieces[number]
        if self.error is not None:
            raise self.error
        return None


def _resolve(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


class Generation:
    """The answer to one request, while it is made and afterwards. `Engine.submit` returns it.

    Iterate over it for the pieces, by ``for`` in a thread or by ``async for`` in an event loop.
    Each iteration begins with the first piece, and there may be several. After a last piece with
    the reason ``"error"`` the next step of the iteration raises the error.

    As a context manager, by ``with`` or ``async with``, it is cancelled at the end of the block
    unless it is finished: for answers that a reader may leave.

    Attributes
    ----------
    prompt_token_ids : tuple of int
    """

    def __init__(
        self,
        engine: object,
        stream: Any,  # not shown in the reference as a `Stream`, which is internal
        prompt_token_ids: tuple[int, ...],
        cancel: Callable[[], None],
    ) -> None:
        self._engine = engine  # it stops when nothing refers to it
        self._stream: Stream = stream
        self._cancel = cancel
        self.prompt_token_ids = prompt_token_ids

    @property
    def usage(self) -> Usage:
        """Tokens taken so far."""
        return self._stream.usage

    @property
    def error(self) -> Exception | None:
        """What it failed with; None if it did not fail."""
        return self._stream.error

    @property
    def is_done(self) -> bool:
        """Whether it is finished, for whatever reason."""
        return self._stream.is_done

    def cancel(self) -> None:
        """End it at the next step; if it is finished, nothing happens.

        Takes no lock, so that any thread, a finalizer and a signal handler may call it.
        """
        self._cancel()

    def result(self, timeout: float | None = None) -> Completion:
        """Wait for the whole answer.

        Parameters
        ----------
        timeout : float, optional
            Seconds. [default: as long as it takes]

        Raises
        ------
        TimeoutError
            It is not finished in this time. It goes on.
        ModelFailedError
            The model raised, or an eviction policy of the manager.
        KVPoolError
            Another error ended it.
        """
        if not self._stream.wait(math.inf, timeout):
            raise TimeoutError(f"the generation is not finished after {timeout} s")
        return self._completion()

    async def aresult(self) -> Completion:
        """Wait for the whole answer in an event loop; see `result`.

        Raises
        ------
        ModelFailedError
            The model raised, or an eviction policy of the manager.
        KVPoolError
            Another error ended it.
        """
        await self._stream.wait_in_loop(math.inf)
        return self._completion()

    def _completion(self) -> Completion:
        pieces = self._stream.pieces()
        reason = pieces[-1].finish_reason
        if self._stream.error is not None or reason is None:
            raise self._stream.error or AssertionError(reason)
        return Completion(
            "".join(piece.text for piece in pieces),
            tuple(token for piece in pieces for token in piece.token_ids),
            reason,
            self._stream.usage,
            tuple(one for piece in pieces for one in piece.logprobs),
        )

    def __iter__(self) -> Iterator[TokenPiece]:
        number = 0
        while True:
            self._stream.wait(number)
            piece = self._stream.piece(number)
            if piece is None:
                return
            number += 1
            yield piece

    async def __aiter__(self) -> AsyncIterator[TokenPiece]:
        number = 0
        while True:
            await self._stream.wait_in_loop(number)
            piece = self._stream.piece(number)
            if piece is None:
                return
            number += 1
            yield piece

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_reason: object) -> None:
        self.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_reason: object) -> None:
        self.cancel()

    def __repr__(self) -> str:
        usage = self.usage
        state = "finished" if self.is_done else "going on"
        return (
            f"<{type(self).__name__}: {usage.prompt_tokens} tokens of prompt, "
            f"{usage.completion_tokens} generated, {state}>"
        )
