"""Errors as OpenAI's API tells them: a status, and an object that says what is wrong."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from kvpool.errors import (
    ContextOverflowError,
    InvalidArgumentError,
    KVPoolError,
    PoolExhaustedError,
)
from kvpool.serving import EngineClosedError, QueueFullError

__all__ = ["ApiError", "bad_request", "error_of", "logged"]

_log = logging.getLogger(__name__)

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
}


_STATUS: tuple[tuple[type[Exception], int, str | None], ...] = (
    (ContextOverflowError, 400, "context_length_exceeded"),
    (EngineClosedError, 503, "server_stopping"),
    (InvalidArgumentError, 400, None),
    (ValueError, 400, None),  # KVPoolErrors of tokens, and of a chat template
)


class ApiError(Exception):
    """A request that is not answered, or not to its end.

    Parameters
    ----------
    status : int
        Of HTTP.
    message : str
    code : str, optional
        For programs.
    param : str, optional
        The field of the request that is wrong.
    headers : mapping of str to str

    Attributes
    ----------
    status, headers
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self._code = code
        self._param = param

    def body(self) -> dict[str, Any]:
        """Return the object that clients of OpenAI read."""
        kind = _TYPES.get(self.status, "server_error")
        error = {"message": str(self), "type": kind, "param": self._param, "code": self._code}
        return {"error": error}


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """Return the error of a request that cannot be served as it is."""
    return ApiError(400, message, code, param)


def error_of(error: Exception) -> ApiError:
    """Return what a client is told of an error of the engine."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueueFullError):
        return _busy(str(error), "queue_full", error.retry_after)
    if isinstance(error, PoolExhaustedError):
        return _busy(f"the pool is full: {error}", "pool_full", 1.0)
    if not isinstance(error, KVPoolError):
        message = f"{type(error).__name__}; the log of the server says more"
        return ApiError(500, message, "server_error")
    for kind, status, code in _STATUS:
        if isinstance(error, kind):
            return ApiError(status, str(error), code)
    return ApiError(500, str(error), "engine_error")


def logged(told: ApiError, error: Exception) -> ApiError:
    """Log an error of the engine that is not the client's; return what the client is told.

    Errors that are not of kvpool are logged by uvicorn.
    """
    if told.status >= 500 and isinstance(error, KVPoolError):
        _log.error("a request failed: %s", error, exc_info=error)
    return told


def _busy(message: str, code: str, seconds: float) -> ApiError:
    return ApiError(429, message, code, headers={"Retry-After": str(max(math.ceil(seconds), 1))})
