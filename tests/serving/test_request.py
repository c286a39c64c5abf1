"""What can be asked for."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from kvpool.cache_key import CacheKey
from kvpool.errors import InvalidArgumentError
from kvpool.serving import Request, Sampling

ODD: list[tuple[str, Any, str]] = [
    ("temperature", -0.1, "temperature must be at least 0, not -0.1"),
    ("temperature", float("nan"), "temperature must be a finite number, not nan"),
    ("temperature", "1", "temperature must be a finite number, not '1'"),
    ("temperature", True, "temperature must be a finite number, not True"),
    ("top_p", 0, "top_p must be above 0, not 0"),
    ("top_p", 1.01, "top_p must be at most 1, not 1.01"),
    ("top_k", -1, "top_k must be at least 0, not -1"),
    ("top_k", 2.5, "top_k must be a whole number, not 2.5"),
    ("min_p", 2, "min_p must be at most 1, not 2"),
    ("repetition_penalty", 0, "repetition_penalty must be above 0, not 0"),
    ("presence_penalty", None, "presence_penalty must be a number, not None"),
    ("frequency_penalty", float("inf"), "frequency_penalty must be a finite number, not inf"),
    ("logit_bias", [1], "logit_bias must be a mapping of token ids to numbers"),
    ("logit_bias", {"1": 2.0}, "a token of logit_bias must be a whole number, not '1'"),
    ("logit_bias", {-1: 2.0}, "a token of logit_bias must be at least 0, not -1"),
    ("logit_bias", {1: "2"}, "logit_bias of token 1 must be a finite number, not '2'"),
    ("seed", -1, "seed must be at least 0, not -1"),
    ("seed", 1 << 63, "seed must be at most"),
]

ODD_REQUESTS: list[tuple[dict[str, Any], str]] = [
    ({}, "give one of prompt, messages and tokens, not nothing"),
    ({"prompt": "a", "tokens": [1]}, "not prompt and tokens"),
    ({"prompt": b"a"}, "prompt must be a str, not b'a'"),
    ({"messages": "hello"}, "messages must be a sequence of at least one mapping, not 'hello'"),
    ({"messages": []}, r"not \[\]"),
    ({"messages": ["hello"]}, r"not \['hello'\]"),
    ({"prompt": "a", "max_tokens": 0}, "max_tokens must be at least 1, not 0"),
    ({"prompt": "a", "logprobs": -1}, "logprobs must be at least 0, not -1"),
    ({"prompt": "a", "sampling": {}}, "sampling must be a Sampling, not {}"),
    ({"prompt": "a", "stop": ""}, "stop must be one text or several, and not an empty one"),
    ({"prompt": "a", "stop": ["a", 1]}, r"unlike \['a', 1\]"),
    ({"prompt": "a", "stop": None}, "unlike None"),
    ({"prompt": "a", "session": 1.5}, "session must be a str, an int or a CacheKey, not 1.5"),
    ({"prompt": "a", "session": True}, "not True"),
    ({"prompt": "a", "salt": None}, "salt must be a str, not None"),
    ({"prompt": "a", "priority": "high"}, "priority must be a whole number, not 'high'"),
    ({"prompt": "a", "deadline": 0}, "deadline must be above 0, not 0"),
]


@pytest.mark.parametrize(("name", "value", "text"), ODD)
def test_odd_sampling_is_refused(name: str, value: Any, text: str) -> None:
    with pytest.raises(InvalidArgumentError, match=text):
        Sampling(**{name: value})


@pytest.mark.parametrize(("options", "text"), ODD_REQUESTS)
def test_odd_requests_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgumentError, match=text):
        Request(**options)


def test_a_request_cannot_be_changed() -> None:
    bias = {3: 1.5}
    request = Request(prompt="a", stop="end", sampling=Sampling(logit_bias=bias))
    bias[4] = 2.0
    assert request.sampling.logit_bias == {3: 1.5}
    assert request.stop == ("end",)
    name = "salt"
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(request, name, "b")
    assert dataclasses.replace(request, session=CacheKey("a", 1)).session == CacheKey("a", 1)


def test_a_number_that_no_float_can_hold_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="temperature must be a finite number, not 1000"):
        Sampling(temperature=10**400)
