"""What an engine is asked for, from the bodies of requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from kvpool.errors import InvalidArgumentError
from kvpool.server._bodies import ChatBody, CompletionBody, SamplingBody
from kvpool.server._errors import bad_request
from kvpool.serving import Request, Sampling

__all__ = ["chat_request", "completion_request"]


def chat_request(body: ChatBody, salt: str, deadline: float | None) -> Request:
    """Return what `/v1/chat/completions` asks an engine for.

    Raises
    ------
    ApiError
        Fields contradict each other, or a value is not accepted.
    """
    if body.top_logprobs is not None and not body.logprobs:
        raise bad_request(
            f"top_logprobs is {body.top_logprobs}, which needs logprobs to be true", "top_logprobs"
        )
    longest = _one_limit(body.max_tokens, body.max_completion_tokens)
    return _request(
        body,
        messages=[_mapping(message) for message in body.messages],
        max_tokens=longest,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        salt=salt,
        deadline=deadline,
    )


def completion_request(body: CompletionBody, salt: str, deadline: float | None) -> Request:
    """Return what `/v1/completions` asks an engine for.

    Raises
    ------
    ApiError
        A value is not accepted.
    """
    is_text = isinstance(body.prompt, str)
    return _request(
        body,
        **{"prompt" if is_text else "tokens": body.prompt},
        max_tokens=body.max_tokens,
        logprobs=body.logprobs,
        salt=salt,
        deadline=deadline,
    )


def _request(body: SamplingBody, **own: Any) -> Request:
    if body.stream_options is not None and not body.stream:
        raise bad_request("stream_options need stream to be true", "stream_options")
    sampling: dict[str, Any] = {
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": body.top_k,
        "min_p": body.min_p,
        "repetition_penalty": body.repetition_penalty,
        "presence_penalty": body.presence_penalty or 0.0,
        "frequency_penalty": body.frequency_penalty or 0.0,
        "logit_bias": _biases(body.logit_bias or {}),
        # Any number is a seed for OpenAI; for torch it has 63 bits.
        "seed": None if body.seed is None else body.seed % (1 << 63),
    }
    try:
        return Request(sampling=Sampling(**sampling), stop=body.stop or (), **own)
    except InvalidArgumentError as error:
        raise bad_request(str(error)) from error


def _one_limit(old: int | None, new: int | None) -> int | None:
    if old is not None and new is not None and old != new:
        raise bad_request(
            f"max_tokens is {old} and max_completion_tokens is {new}; give one of them",
            "max_completion_tokens",
        )
    return old if new is None else new


def _mapping(message: msgspec.Struct) -> dict[str, Any]:
    return {
        name: value for name, value in msgspec.structs.asdict(message).items() if value is not None
    }


def _biases(given: Mapping[str, float]) -> dict[int, float]:
    for token in given:
        if not (token.isascii() and token.isdigit()):
            raise bad_request(f"logit_bias: token ids are numbers, not {token!r}", "logit_bias")
    return {int(token): bias for token, bias in given.items()}
