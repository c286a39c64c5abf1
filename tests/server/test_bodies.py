"""The bodies of requests, without a server: what is taken, and what is said of the rest."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kvpool.server._bodies import ChatBody, CompletionBody, parse
from kvpool.server._errors import ApiError
from kvpool.server._requests import chat_request, completion_request
from kvpool.serving import Request

HELLO = [{"role": "user", "content": "hello"}]
CHAT = {"model": "m", "messages": HELLO}
TEXT = {"model": "m", "prompt": "hello"}


def chat(**fields: Any) -> Request:
    content = json.dumps(CHAT | fields).encode()
    return chat_request(parse(content, ChatBody), "salt", 5.0)


def text(**fields: Any) -> Request:
    content = json.dumps(TEXT | fields).encode()
    return completion_request(parse(content, CompletionBody), "salt", 5.0)


def test_a_chat_becomes_a_request() -> None:
    given = chat(
        max_completion_tokens=7,
        temperature=0.5,
        top_p=0.9,
        top_k=3,
        min_p=0.1,
        repetition_penalty=1.1,
        presence_penalty=-1,
        frequency_penalty=2,
        logit_bias={"5": -100},
        seed=-1,
        stop="end",
        logprobs=True,
        top_logprobs=2,
    )
    assert given.messages == HELLO
    assert (given.max_tokens, given.stop, given.logprobs) == (7, ("end",), 2)
    assert (given.salt, given.deadline) == ("salt", 5.0)
    sampling = given.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 3)
    assert (sampling.min_p, sampling.repetition_penalty) == (0.1, 1.1)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (-1, 2)
    assert dict(sampling.logit_bias) == {5: -100}
    assert sampling.seed == (1 << 63) - 1


def test_what_is_not_said_is_left_to_the_model() -> None:
    given = chat(temperature=None, stop=None, logprobs=False, max_tokens=None)
    assert given == chat()
    assert (given.max_tokens, given.stop, given.logprobs) == (None, (), None)
    assert given.sampling.temperature is None


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [("hello", "hello"), (["hello"], "hello"), ([1, 2], [1, 2]), ([[1, 2]], [1, 2])],
)
def test_a_prompt_is_a_text_or_tokens(prompt: Any, expected: Any) -> None:
    given = text(prompt=prompt, max_tokens=3, logprobs=1, stop=["a", "b"])
    assert (given.prompt if isinstance(expected, str) else given.tokens) == expected
    assert (given.max_tokens, given.logprobs, given.stop) == (3, 1, ("a", "b"))


def test_parts_of_a_message_become_one_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    given = chat(messages=[{"role": "developer", "content": parts, "name": "x"}])
    assert given.messages == [{"role": "system", "content": "a\nb", "name": "x"}]


def test_an_answer_that_a_client_sends_back_is_taken() -> None:
    answer = {"role": "assistant", "content": "hi", "refusal": None, "tool_calls": None}
    assert chat(messages=[*HELLO, answer]).messages == [
        *HELLO,
        {"role": "assistant", "content": "hi"},
    ]


@pytest.mark.parametrize(
    "field",
    [
        {"n": 1},
        {"tools": []},
        {"tools": None},
        {"tool_choice": "auto"},
        {"response_format": {"type": "text"}},
        {"modalities": ["text"]},
        {"store": True},
        {"metadata": {"a": "b"}},
        {"service_tier": "flex"},
        {"prompt_cache_key": "x"},
        {"parallel_tool_calls": False},
        {"audio": None},
    ],
)
def test_what_changes_nothing_is_taken(field: dict[str, Any]) -> None:
    assert chat(**field) == chat()


BAD_CHATS: list[tuple[dict[str, Any], str, str]] = [
    ({"model": None}, "model", "model is missing"),
    ({"model": 3}, "model", "model: expected `str`, got `int`, not 3"),
    ({"messages": None}, "messages", "messages is missing"),
    ({"messages": []}, "messages", "of length >= 1, not []"),
    ({"messages": "hello"}, "messages", 'not "hello"'),
    ({"messages": [3]}, "messages[0]", "expected `object`, got `int`, not 3"),
    ({"messages": [{"content": "a"}]}, "messages[0].role", '"assistant", not null'),
    ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role", 'not "tool"'),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "is missing"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content", "not 3"),
    (
        {"messages": [{"role": "user", "content": "a", "x": 1}]},
        "messages[0].x",
        'unknown field "messages[0].x"',
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content[0]",
        "the model reads text alone",
    ),
    (
        {"messages": [{"role": "assistant", "content": "", "tool_calls": [{"id": "x"}]}]},
        "messages[0].tool_calls",
        "not supported",
    ),
    ({"max_tokens": 0}, "max_tokens", "expected `int` >= 1, not 0"),
    ({"max_tokens": 1.5}, "max_tokens", "not 1.5"),
    ({"max_tokens": True}, "max_tokens", "not true"),
    (
        {"max_tokens": 1, "max_completion_tokens": 2},
        "max_completion_tokens",
        "max_tokens is 1 and max_completion_tokens is 2",
    ),
    ({"temperature": 2.5}, "temperature", "<= 2.0, not 2.5"),
    ({"temperature": "hot"}, "temperature", 'not "hot"'),
    ({"top_p": 0}, "top_p", "> 0.0, not 0"),
    ({"top_k": -1}, "top_k", ">= 0, not -1"),
    ({"min_p": 2}, "min_p", "<= 1.0, not 2"),
    ({"repetition_penalty": 0}, "repetition_penalty", "> 0.0, not 0"),
    ({"presence_penalty": 3}, "presence_penalty", "<= 2.0, not 3"),
    ({"frequency_penalty": -3}, "frequency_penalty", ">= -2.0, not -3"),
    ({"logit_bias": {"a": 1}}, "logit_bias", "token ids are numbers, not 'a'"),
    ({"logit_bias": {"1": 101}}, "logit_bias[...]", "<= 100.0"),
    ({"seed": "x"}, "seed", 'not "x"'),
    ({"stop": ""}, "stop", "of length >= 1"),
    ({"stop": ["a", ""]}, "stop[1]", 'not ""'),
    ({"stop": ["a"] * 17}, "stop", "of length <= 16"),
    ({"top_logprobs": 2}, "top_logprobs", "needs logprobs to be true"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "<= 20, not 21"),
    ({"stream": "yes"}, "stream", 'not "yes"'),
    ({"stream_options": {"include_usage": True}}, "stream_options", "need stream to be true"),
    ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "unknown field"),
    ({"n": 2}, "n", "only 1 is accepted, not 2"),
    ({"n": True}, "n", "only 1 is accepted, not true"),
    ({"tools": [{"type": "function"}]}, "tools", "not supported"),
    ({"tool_choice": "required"}, "tool_choice", '"none" or "auto"'),
    ({"response_format": {"type": "json_object"}}, "response_format", "not supported"),
    ({"audio": {"voice": "x"}}, "audio", "audio is not supported, not"),
    ({"reasoning_effort": "high"}, "reasoning_effort", 'not "high"'),
    ({"max_token": 3}, "max_token", "did you mean max_tokens?"),
    ({"zzz": 3}, "zzz", 'unknown field "zzz"'),
    ({"prompt": "a"}, "prompt", "unknown field"),
]


@pytest.mark.parametrize(("fields", "param", "reason"), BAD_CHATS)
def test_a_bad_chat_is_refused_with_the_field_and_the_value(
    fields: dict[str, Any], param: str, reason: str
) -> None:
    with pytest.raises(ApiError) as caught:
        chat(**fields)
    assert caught.value.status == 400
    error = caught.value.body()["error"]
    assert reason in error["message"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("fields", "param", "reason"),
    [
        ({"prompt": None}, "prompt", "prompt is missing"),
        ({"prompt": 3}, "prompt", "not 3"),
        ({"prompt": ["a", "b"]}, "prompt", "2 prompts, and one is accepted"),
        ({"prompt": [1, "a"]}, "prompt[1]", 'not "a"'),
        ({"best_of": 2}, "best_of", "only 1"),
        ({"echo": True}, "echo", "only false"),
        ({"suffix": "x"}, "suffix", 'not "x"'),
        ({"logprobs": True}, "logprobs", "not true"),
        ({"logprobs": 21}, "logprobs", "<= 20"),
        ({"messages": HELLO}, "messages", "unknown field"),
        ({"max_completion_tokens": 2}, "max_completion_tokens", "did you mean"),
    ],
)
def test_a_bad_completion_is_refused_with_the_field_and_the_value(
    fields: dict[str, Any], param: str, reason: str
) -> None:
    with pytest.raises(ApiError) as caught:
        text(**fields)
    error = caught.value.body()["error"]
    assert reason in error["message"]
    assert error["param"] == param


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"hello",
        b"\xff",
        b"[" * 100_000,
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"model": "\\ud800"}',
        b"{} {}",
    ],
)
def test_what_is_not_json_is_refused(content: bytes) -> None:
    with pytest.raises(ApiError, match="the body is not JSON"):
        parse(content, ChatBody)


@pytest.mark.parametrize("content", [b"[]", b"3", b"null", b'"text"'])
def test_what_is_not_an_object_is_refused(content: bytes) -> None:
    with pytest.raises(ApiError, match="must be a JSON object, not"):
        parse(content, ChatBody)


def test_a_long_value_is_cut() -> None:
    with pytest.raises(ApiError) as caught:
        chat(seed="x" * 10_000)
    assert len(str(caught.value)) < 200
