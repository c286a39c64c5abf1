"""The bodies of requests: what they may hold, and errors that show what is wrong."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from kvpool.server._errors import ApiError, bad_request

__all__ = ["ChatBody", "CompletionBody", "Message", "SamplingBody", "StreamOptions", "parse"]

B = TypeVar("B", bound="SamplingBody")

_Count = Annotated[int, Meta(ge=1)]
_Penalty = Annotated[float, Meta(ge=-2, le=2)]
_Text = Annotated[str, Meta(min_length=1)]

_MOST_SHOWN = 80  # characters of a value in an error


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    """What a stream tells beside the text."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class SamplingBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The fields that both kinds of requests have."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: _Count | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    seed: int | None = None
    stop: _Text | Annotated[list[_Text], Meta(max_length=16)] | None = None
    user: str | None = None
    safety_identifier: str | None = None


class Message(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One message of a conversation; parts of its content are put together before."""

    role: Literal["system", "user", "assistant"]
    content: str
    name: str | None = None


class ChatBody(SamplingBody, kw_only=True, forbid_unknown_fields=True):
    """What `/v1/chat/completions` takes."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: _Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None


class CompletionBody(SamplingBody, kw_only=True, forbid_unknown_fields=True):
    """What `/v1/completions` takes."""

    prompt: str | list[int]
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None


# Fields of OpenAI's API that would change the answer: the values with which they do not.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "moderation": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "web_search_options": (),
}
# Fields of OpenAI's API that do not change the answer.
_IGNORED = {
    "metadata",
    "parallel_tool_calls",
    "prediction",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "service_tier",
    "store",
}
# What clients send back of an answer, empty.
_EMPTY_IN_MESSAGES = ("annotations", "audio", "function_call", "reasoning", "refusal", "tool_calls")
_ROLES = ("developer", "system", "user", "assistant")


def parse(content: bytes, kind: type[B]) -> B:
    """Return the body of a request.

    Raises
    ------
    ApiError
        It is not JSON, has a field that is unknown or not supported, or a value that is not
        accepted. The text names the field and shows the value.
    """
    body = _decoded(content)
    _remove_neutral(body)
    _check_names(body, kind)
    if kind is ChatBody and isinstance(body.get("messages"), list):
        body["messages"] = [
            _plain_message(message, f"messages[{number}]")
            for number, message in enumerate(body["messages"])
        ]
    if kind is CompletionBody and "prompt" in body:
        body["prompt"] = _one_prompt(body["prompt"])
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), body) from error


def _decoded(content: bytes) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError) as error:
        raise bad_request(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise bad_request(f"the body must be a JSON object, not {_shown(body)}")
    return body


def _remove_neutral(body: dict[str, Any]) -> None:
    """Take out what does not change the answer; refuse what would, and is not supported."""
    for name in [name for name, value in body.items() if value is None or name in _IGNORED]:
        del body[name]
    for name, accepted in _UNSUPPORTED.items():
        if name not in body:
            continue
        value = body.pop(name)
        if not any(type(value) is type(one) and value == one for one in accepted):
            only = f"; only {_alternatives(accepted)} is accepted" if accepted else ""
            raise bad_request(
                f"{name} is not supported{only}, not {_shown(value)}", name, "unsupported_parameter"
            )


def _check_names(body: Mapping[str, Any], kind: type[SamplingBody]) -> None:
    known = kind.__struct_fields__
    for name in body:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise bad_request(f"unknown field {_shown(name)}{hint}", name, "unknown_parameter")


def _plain_message(message: Any, place: str) -> Any:
    """Return a message with its content as one text, and without fields that are empty."""
    if not isinstance(message, dict):
        return message
    for name in _EMPTY_IN_MESSAGES:
        if value := message.pop(name, None):
            raise bad_request(
                f"{place}.{name} is not supported, and must be left out, not {_shown(value)}",
                f"{place}.{name}",
                "unsupported_parameter",
            )
    role = message.get("role")
    if role not in _ROLES:
        raise bad_request(
            f"{place}.role must be {_alternatives(_ROLES)}, not {_shown(role)}", f"{place}.role"
        )
    plain = message | {"role": "system" if role == "developer" else role}
    if isinstance(plain.get("content"), list):
        parts = enumerate(plain["content"])
        plain["content"] = "\n".join(
            _text_of(part, f"{place}.content[{number}]") for number, part in parts
        )
    return plain


def _text_of(part: Any, place: str) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise bad_request(
        f'{place} must be {{"type": "text", "text": …}}, because the model reads text alone, '
        f"not {_shown(part)}",
        place,
    )


def _one_prompt(prompt: Any) -> Any:
    """Return a prompt, also from a list with one; refuse several."""
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
        if len(prompt) > 1:
            raise bad_request(
                f"prompt has {len(prompt)} prompts, and one is accepted in a request",
                "prompt",
                "unsupported_parameter",
            )
        return prompt[0]
    return prompt


def _invalid(text: str, body: Mapping[str, Any]) -> ApiError:
    """Return the error of a value that is not accepted, with the value."""
    reason, _, path = text.partition(" - at `$")
    path = path.removesuffix("`").removeprefix(".")
    if missing := re.fullmatch(r"Object missing required field `(\w+)`", reason):
        place = f"{path}.{missing[1]}" if path else missing[1]
        return bad_request(f"{place} is missing", place)
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", reason):
        place = f"{path}.{unknown[1]}" if path else unknown[1]
        return bad_request(f"unknown field {_shown(place)}", place, "unknown_parameter")
    value: Any = body
    for part in re.findall(r"\[(\d+)\]|([^.\[\]]+)", path):
        value = value[int(part[0])] if part[0] else value.get(part[1], value)
    wanted = reason[:1].lower() + reason[1:]
    return bad_request(f"{path}: {wanted}, not {_shown(value)}", path or None)


def _shown(value: Any) -> str:
    """Return a value as JSON has it, cut to a length that a reader can take in."""
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


def _alternatives(values: tuple[Any, ...]) -> str:
    *others, last = map(_shown, values)
    return f"{', '.join(others)} or {last}" if others else last
