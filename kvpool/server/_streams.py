"""Answers that come while they are made: server-sent events, and clients that leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from kvpool.server._answers import Answer
from kvpool.server._errors import ApiError, error_of, logged
from kvpool.serving import Generation, TokenPiece

__all__ = ["EventStream", "check_piece", "unless_left"]

T = TypeVar("T")

# A proxy that collects the events of a stream would make it useless.
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


async def unless_left(request: Request, work: Awaitable[T]) -> T:
    """Wait for something, but not longer than the client does.

    Parameters
    ----------
    request : Request
        Its body must have been read.
    work : awaitable
        It is cancelled if the client leaves.

    Raises
    ------
    ClientDisconnect
        The client has left.
    """
    doing = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({doing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        raise ClientDisconnect
    finally:
        for task in (doing, leaving):
            task.cancel()
        await asyncio.gather(doing, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def check_piece(generation: Generation, piece: TokenPiece) -> None:
    """Raise unless a piece is part of an answer.

    Raises
    ------
    ApiError
        The generation has failed, or the server has ended it.
    """
    if piece.finish_reason == "error":
        error = generation.error or RuntimeError("the answer ended without a reason")
        raise logged(error_of(error), error)
    if piece.finish_reason == "cancelled":
        raise ApiError(503, "the server is stopping", "server_stopping")


class EventStream(StreamingResponse):
    """The pieces of an answer as server-sent events.

    Parameters
    ----------
    generation : Generation
        Cancelled when the response ends, in whatever way.
    answer : Answer
    pieces : async iterator of TokenPiece
        Those after the first one.
    first : TokenPiece
    include_usage : bool
    """

    def __init__(
        self,
        generation: Generation,
        answer: Answer,
        first: TokenPiece,
        pieces: AsyncIterator[TokenPiece],
        include_usage: bool,
    ) -> None:
        self._generation = generation
        self._answer = answer
        self._include_usage = include_usage
        super().__init__(
            self._events(first, pieces), media_type="text/event-stream", headers=_HEADERS
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; if the client leaves before the first event too, nothing goes on."""
        with self._generation:
            await super().__call__(scope, receive, send)

    async def _events(
        self, first: TokenPiece, pieces: AsyncIterator[TokenPiece]
    ) -> AsyncIterator[bytes]:
        usage = {"usage": None} if self._include_usage else {}
        for chunk in (*self._answer.opening(), *self._answer.chunks(first)):
            yield _event(chunk | usage)
        try:
            async for piece in pieces:
                check_piece(self._generation, piece)
                for chunk in self._answer.chunks(piece):
                    yield _event(chunk | usage)
        except ApiError as error:
            yield _event(error.body())
            return
        if self._include_usage:
            yield _event(self._answer.closing(self._generation.usage))
        yield b"data: [DONE]\n\n"


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(content) + b"\n\n"
