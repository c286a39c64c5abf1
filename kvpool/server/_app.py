"""`create_app`: the endpoints of OpenAI's API over an engine, as an ASGI application."""

from __future__ import annotations

import asyncio
import collections
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kvpool import serving
from kvpool._checks import check_number, whole_number
from kvpool.errors import InvalidArgumentError, KVPoolError
from kvpool.server._answers import Answer, ChatAnswer, TextAnswer
from kvpool.server._bodies import ChatBody, CompletionBody, SamplingBody, parse
from kvpool.server._errors import ApiError, error_of, logged
from kvpool.server._keys import Keys, SaltFrom, salt_of
from kvpool.server._requests import chat_request, completion_request
from kvpool.server._streams import EventStream, check_piece, unless_left

__all__ = ["create_app"]

Endpoint = Callable[[Request], Awaitable[Response]]

_CLIENT_LEFT = 499  # as nginx has it; it is counted, and never sent
_UNKNOWN_PATH = "other"


def create_app(
    engine: serving.Engine,
    model_id: str,
    *,
    keys: Keys | Sequence[str] = (),
    salt_from: SaltFrom = SaltFrom.KEY,
    max_body: int = 8 << 20,
    body_seconds: float = 30.0,
    deadline: float | None = None,
    registry: CollectorRegistry | None = None,
    origins: Sequence[str] = (),
    hosts: Sequence[str] = (),
) -> Starlette:
    """Return the application.

    Parameters
    ----------
    engine : Engine
        Not closed with the application.
    model_id : str
        The name under which requests ask for the model.
    keys : Keys or sequence of str
        Requests must show one of them, as a bearer token. [default: every request is accepted]
    salt_from : SaltFrom, default SaltFrom.KEY
        What tells tenants apart, who share no tokens.
    max_body : int, default 8 MiB
        Bytes of the body of a request.
    body_seconds : float, default 30
        How long a client may take to send it.
    deadline : float, optional
        Seconds after which an answer ends with what there is. [default: there is no limit]
    registry : CollectorRegistry, optional
        The metrics that `/metrics` shows, beside the number of requests. [default: a new one]
    origins : sequence of str
        Web pages that may call from a browser, for example ``https://chat.example``; ``*`` for all.
    hosts : sequence of str
        The names under which the server may be called. [default: any]

    Returns
    -------
    Starlette
        An ASGI application.

    Raises
    ------
    InvalidArgumentError
        A key is not one that a header can have, or a number is out of its range.
    """
    whole_number("max_body", max_body, InvalidArgumentError, least=1)
    check_number("body_seconds", body_seconds, above=0)
    check_number("deadline", deadline, above=0)
    metrics = CollectorRegistry() if registry is None else registry
    accepted = keys if isinstance(keys, Keys) else Keys(keys)
    endpoints = _Endpoints(
        engine, model_id, accepted, salt_from, max_body, body_seconds, deadline, metrics
    )
    routes = endpoints.routes()
    counting = _Counting(model_id, routes)
    metrics.register(counting)
    middleware = [Middleware(_Counted, counting)]
    if hosts:
        middleware.append(Middleware(TrustedHostMiddleware, list(hosts), www_redirect=False))
    if origins:
        options: dict[str, Any] = {
            "allow_origins": list(origins),
            "allow_methods": ["GET", "POST"],
            "allow_headers": ["*"],
            "expose_headers": ["Retry-After"],
        }
        middleware.append(Middleware(CORSMiddleware, **options))
    handlers: dict[Any, Any] = {
        ApiError: _refuse,
        ClientDisconnect: _forget,
        HTTPException: _refuse_http,
        KVPoolError: _refuse,
        Exception: _refuse,
    }
    return Starlette(routes=routes, middleware=middleware, exception_handlers=handlers)


class _Endpoints:
    """What each path does."""

    def __init__(
        self,
        engine: serving.Engine,
        model_id: str,
        keys: Keys,
        salt_from: SaltFrom,
        max_body: int,
        body_seconds: float,
        deadline: float | None,
        registry: CollectorRegistry,
    ) -> None:
        self._engine = engine
        self._model_id = model_id
        self._keys = keys
        self._salt_from = salt_from
        self._max_body = max_body
        self._body_seconds = body_seconds
        self._deadline = deadline
        self._registry = registry
        self._began = int(time.time())

    def routes(self) -> list[Route]:
        """Return the paths; all but `/health` ask for a key if there are any."""
        guarded = self._guarded
        return [
            Route("/v1/chat/completions", guarded(self._chat), methods=["POST"]),
            Route("/v1/completions", guarded(self._complete), methods=["POST"]),
            Route("/v1/models", guarded(self._models), methods=["GET"]),
            Route("/v1/models/{model:path}", guarded(self._model), methods=["GET"]),
            Route("/metrics", guarded(self._metrics), methods=["GET"]),
            Route("/health", self._health, methods=["GET"]),
        ]

    def _guarded(self, endpoint: Endpoint) -> Endpoint:
        async def checked(request: Request) -> Response:
            request.state.key = self._keys.check(request.headers.get("Authorization"))
            return await endpoint(request)

        return checked

    # -- answers ---------------------------------------------------------------------------

    async def _chat(self, request: Request) -> Response:
        body = parse(await self._read(request), ChatBody)
        asked = chat_request(body, self._salt(request, body), self._deadline)
        return await self._answer(request, body, asked, ChatAnswer(self._model_id))

    async def _complete(self, request: Request) -> Response:
        body = parse(await self._read(request), CompletionBody)
        asked = completion_request(body, self._salt(request, body), self._deadline)
        return await self._answer(request, body, asked, TextAnswer(self._model_id))

    async def _answer(
        self, request: Request, body: SamplingBody, asked: serving.Request, answer: Answer
    ) -> Response:
        self._check_model(body.model)
        # It turns a text into tokens, which takes some milliseconds for a long one.
        generation = await run_in_threadpool(self._engine.submit, asked)
        try:
            if not body.stream:
                completion = await unless_left(request, generation.aresult())
                check_piece(generation, serving.TokenPiece("", (), completion.finish_reason))
                return _json(answer.whole(completion))
            # The status of the response is that of the first piece.
            pieces = aiter(generation)
            first = await unless_left(request, anext(pieces))
            check_piece(generation, first)
        except BaseException:
            generation.cancel()
            raise
        options = body.stream_options
        wants_usage = options is not None and bool(options.include_usage)
        return EventStream(generation, answer, first, pieces, wants_usage)

    async def _read(self, request: Request) -> bytes:
        """Return the body of a request."""
        kind = request.headers.get("Content-Type", "")
        if kind.partition(";")[0].strip().lower() != "application/json":
            raise ApiError(415, f"Content-Type must be application/json, not {kind!r}")
        length = request.headers.get("Content-Length", "")
        if length.isdigit() and int(length) > self._max_body:
            raise self._too_large()
        content = bytearray()
        try:
            async with asyncio.timeout(self._body_seconds):
                async for chunk in request.stream():
                    content += chunk
                    if len(content) > self._max_body:
                        raise self._too_large()
        except TimeoutError as error:
            raise ApiError(
                408, f"the body did not come within {self._body_seconds:g} s", "timeout"
            ) from error
        return bytes(content)

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the body has more than {self._max_body} bytes", "body_too_large")

    def _salt(self, request: Request, body: SamplingBody) -> str:
        return salt_of(self._salt_from, request.state.key, body.user or body.safety_identifier)

    def _check_model(self, name: str) -> None:
        if name != self._model_id:
            raise ApiError(
                404,
                f"there is no model {name!r}; this server has {self._model_id!r}",
                "model_not_found",
                "model",
            )

    # -- the rest --------------------------------------------------------------------------

    async def _models(self, _request: Request) -> Response:
        return _json({"object": "list", "data": [self._description()]})

    async def _model(self, request: Request) -> Response:
        self._check_model(request.path_params["model"])
        return _json(self._description())

    def _description(self) -> dict[str, Any]:
        own = {"object": "model", "created": self._began, "owned_by": "kvpool"}
        return {"id": self._model_id} | own

    async def _metrics(self, request: Request) -> Response:
        encode, media_type = choose_encoder(request.headers.get("Accept", ""))
        text: bytes = await run_in_threadpool(encode, self._registry)
        return Response(text, headers={"Content-Type": media_type})

    async def _health(self, _request: Request) -> Response:
        is_open = not self._engine.is_closed
        status = {"status": "ok" if is_open else "stopping", "model": self._model_id}
        return _json(status, 200 if is_open else 503)


# -- errors ------------------------------------------------------------------------------------


async def _refuse(_request: Request, error: Exception) -> Response:
    told = logged(error_of(error), error)
    return _json(told.body(), told.status, told.headers)


async def _refuse_http(request: Request, error: HTTPException) -> Response:
    message = f"{error.detail}: {request.method} {request.url.path}"
    told = ApiError(error.status_code, message, headers=error.headers)
    return _json(told.body(), told.status, told.headers)


async def _forget(_request: Request, _error: ClientDisconnect) -> Response:
    return Response(status_code=_CLIENT_LEFT)


def _json(
    content: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    encoded = msgspec.json.encode(content)
    return Response(encoded, status, headers, media_type="application/json")


class _Counting(Collector):
    """The responses by path and status, and the name of the model, for Prometheus."""

    def __init__(self, model_id: str, routes: Sequence[Route]) -> None:
        self._model_id = model_id
        self._routes = routes
        self._counts: collections.Counter[tuple[str, str]] = collections.Counter()

    def count(self, scope: Scope, status: int) -> None:
        """Count a response."""
        paths = (one.path_format for one in self._routes if one.matches(scope)[0] is not Match.NONE)
        self._counts[next(paths, _UNKNOWN_PATH), str(status)] += 1

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        yield InfoMetricFamily("kvpool_model", "The model.", {"id": self._model_id})
        responses = CounterMetricFamily(
            "kvpool_http_responses",
            "Responses by path and status; 499 are clients that left.",
            labels=["path", "code"],
        )
        for labels, count in self._counts.copy().items():
            responses.add_metric(labels, count)
        yield responses


class _Counted:
    """Counts the responses of an application."""

    def __init__(self, app: ASGIApp, counting: _Counting) -> None:
        self._app = app
        self._counting = counting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False

        async def counted(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                self._counting.count(scope, message["status"])
            await send(message)

        try:
            await self._app(scope, receive, counted)
        except Exception:
            if not has_begun:
                self._counting.count(scope, 500)  # which Starlette answers, outside of this
            raise
