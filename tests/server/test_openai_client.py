"""The real client of OpenAI against a server over loopback."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from kvpool.manager import KVCacheManager
from tests.server.conftest import Serve
from tests.support import needs
from tests.support.model_gates import ModelGate, hooked
from tests.support.served import Served, until

pytestmark = pytest.mark.transformers

SYSTEM = {"role": "system", "content": "Answer in one word, and never in two. " * 8}


def chat(text: str) -> dict[str, Any]:
    return {"model": "tiny", "messages": [SYSTEM, {"role": "user", "content": text}]}


@pytest.fixture(scope="session")
def openai() -> Any:
    return needs.openai()


@pytest.fixture
def client(served: Served, openai: Any) -> Iterator[Any]:
    with openai.OpenAI(base_url=served.base_url, api_key="x", max_retries=0) as client:
        yield client


def test_models(openai: Any, client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "kvpool"
    with pytest.raises(openai.NotFoundError, match="there is no model 'a/b'") as caught:
        client.models.retrieve("a/b")
    assert caught.value.code == "model_not_found"


def test_an_answer_is_that_of_the_model_alone(client: Any, lab: Any) -> None:
    answer = client.chat.completions.create(**chat("hello"), max_tokens=8)
    prompt = lab.tiny().prompt(chat("hello")["messages"], "", ()).tokens
    (choice,) = answer.choices
    assert choice.message.content == lab.text_of(lab.alone(prompt, 8))
    assert (choice.message.role, choice.finish_reason, choice.index) == ("assistant", "length", 0)
    assert (answer.object, answer.model) == ("chat.completion", "tiny")
    assert answer.id.startswith("chatcmpl-")
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (len(prompt), 8)
    assert usage.total_tokens == len(prompt) + 8
    assert usage.prompt_tokens_details.cached_tokens == 0


def test_what_was_sent_before_is_cached(client: Any) -> None:
    first = client.chat.completions.create(**chat("hello"), max_tokens=4).usage
    second = client.chat.completions.create(**chat("goodbye"), max_tokens=4).usage
    assert first.prompt_tokens_details.cached_tokens == 0
    assert 0.5 < second.prompt_tokens_details.cached_tokens / second.prompt_tokens < 1


def test_a_conversation_goes_on_with_the_messages_of_the_client(client: Any) -> None:
    messages: list[Any] = chat("hello")["messages"]
    answer = client.chat.completions.create(model="tiny", messages=messages, max_tokens=4)
    messages += [answer.choices[0].message, {"role": "user", "content": "go on"}]
    usage = client.chat.completions.create(model="tiny", messages=messages, max_tokens=4).usage
    assert usage.prompt_tokens_details.cached_tokens >= answer.usage.prompt_tokens - 1


def test_a_stream_is_the_same_answer_in_pieces(client: Any) -> None:
    whole = client.chat.completions.create(**chat("hello"), max_tokens=8)
    chunks = list(client.chat.completions.create(**chat("hello"), max_tokens=8, stream=True))
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(texts) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len(chunks) > 4
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["length"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert all(chunk.usage is None for chunk in chunks)


def test_a_stream_tells_the_usage_if_that_is_wanted(client: Any) -> None:
    chunks = list(
        client.chat.completions.create(
            **chat("hello"), max_tokens=3, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 3
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens == 0
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_the_helper_for_streams_takes_them(client: Any) -> None:
    whole = client.chat.completions.create(**chat("hello"), max_tokens=8)
    text = whole.choices[0].message.content
    stop = text[-4:]  # the helper wants an answer that was not cut off
    with client.chat.completions.stream(**chat("hello"), max_tokens=8, stop=stop) as stream:
        stream.until_done()
        final = stream.get_final_completion()
    assert final.choices[0].message.content == text[: text.index(stop)]


def test_a_stop_text_is_not_part_of_the_answer(client: Any) -> None:
    whole = client.chat.completions.create(**chat("hello"), max_tokens=8)
    text = whole.choices[0].message.content
    stop = text[len(text) // 2 :][:4]
    cut = client.chat.completions.create(**chat("hello"), max_tokens=8, stop=[stop]).choices[0]
    assert cut.finish_reason == "stop"
    assert cut.message.content == text[: text.index(stop)]


def test_a_seed_repeats_an_answer(client: Any) -> None:
    def said(seed: int) -> str:
        options = {"temperature": 1.5, "max_tokens": 12, "seed": seed}
        answer = client.chat.completions.create(**chat("hello"), **options)
        return str(answer.choices[0].message.content)

    assert said(1) == said(1)
    assert len({said(seed) for seed in (1, 2, -3)}) == 3


def test_log_probabilities_of_a_chat(client: Any) -> None:
    options = {"max_tokens": 3, "logprobs": True, "top_logprobs": 2}
    choice = client.chat.completions.create(**chat("hello"), **options).choices[0]
    found = choice.logprobs.content
    assert "".join(one.token for one in found) == choice.message.content
    for one in found:
        assert one.logprob < 0
        assert bytes(one.bytes).decode() == one.token
        assert len(one.top_logprobs) == 2
    stream = client.chat.completions.create(**chat("hello"), **options, stream=True)
    streamed = [one for chunk in stream for one in (chunk.choices[0].logprobs or _NO).content]
    assert [one.token for one in streamed] == [one.token for one in found]


class _NO:
    content: tuple[Any, ...] = ()


def test_a_text_is_continued(client: Any, lab: Any) -> None:
    answer = client.completions.create(model="tiny", prompt="Once", max_tokens=6, logprobs=2)
    expected = lab.text_of(lab.alone(lab.tokens("Once"), 6))
    choice = answer.choices[0]
    assert (choice.text, choice.finish_reason) == (expected, "length")
    assert (answer.object, answer.usage.completion_tokens) == ("text_completion", 6)
    told = choice.logprobs
    assert "".join(told.tokens) == expected
    assert [expected[at:] for at in told.text_offset[:2]] == [
        expected,
        expected.removeprefix(told.tokens[0]),
    ]
    assert [len(one) for one in told.top_logprobs] == [2] * 6
    tokens = client.completions.create(
        model="tiny", prompt=lab.tokens("Once"), max_tokens=6, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in tokens) == expected


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"max_tokens": 0}, None),
        ({"temperature": 9}, None),
        ({"n": 2}, "unsupported_parameter"),
        ({"max_tokens": 100_000}, "context_length_exceeded"),
        ({"extra_body": {"max_token": 3}}, "unknown_parameter"),
    ],
)
def test_a_bad_request_is_an_error_of_the_client(
    openai: Any, client: Any, fields: Any, code: Any
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**chat("hello") | fields)
    assert caught.value.code == code
    assert caught.value.type == "invalid_request_error"


def test_the_key_of_the_client_is_checked(openai: Any, serve: Serve) -> None:
    served = serve(keys=["right"])
    for key, expected in (("right", None), ("wrong", openai.AuthenticationError)):
        with openai.OpenAI(base_url=served.base_url, api_key=key, max_retries=0) as client:
            if expected is None:
                assert client.chat.completions.create(**chat("hello"), max_tokens=1).choices
            else:
                with pytest.raises(expected, match="another key"):
                    client.models.list()


def test_32_clients_at_once_get_what_each_gets_alone(
    openai: Any, serve: Serve, manager: KVCacheManager
) -> None:
    served = serve({"max_sessions": 8})
    questions = [f"question {number}" for number in range(32)]

    async def ask(client: Any, number: int) -> tuple[str, int]:
        options = {"max_tokens": 6 + number % 3}
        if number % 2:
            answer = await client.chat.completions.create(**chat(questions[number]), **options)
            details = answer.usage.prompt_tokens_details
            return answer.choices[0].message.content, details.cached_tokens
        stream = await client.chat.completions.create(
            **chat(questions[number]),
            **options,
            stream=True,
            stream_options={"include_usage": True},
        )
        text, cached = "", 0
        async for chunk in stream:
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
            cached = chunk.usage.prompt_tokens_details.cached_tokens if chunk.usage else 0
        return text, cached

    async def all_at_once() -> list[tuple[str, int]]:
        async with openai.AsyncOpenAI(
            base_url=served.base_url, api_key="x", max_retries=0
        ) as client:
            return list(await asyncio.gather(*(ask(client, number) for number in range(32))))

    found = asyncio.run(all_at_once())
    with openai.OpenAI(base_url=served.base_url, api_key="x") as client:
        for number in (0, 1, 17, 31):
            alone = client.chat.completions.create(
                **chat(questions[number]), max_tokens=6 + number % 3
            )
            assert found[number][0] == alone.choices[0].message.content
    assert sum(cached > 0 for _, cached in found) >= 24
    assert manager.get_stats().prefix.reuse_ratio > 0.4


def test_a_stream_that_is_left_is_cancelled(served: Served, client: Any) -> None:
    stream = client.chat.completions.create(**chat("hello"), max_tokens=3000, stream=True)
    for _, _ in zip(range(3), stream, strict=False):
        pass
    stream.close()
    until(lambda: served.engine.stats().finished["cancelled"] == 1)
    assert served.engine.stats().running == 0


def test_the_client_comes_again_if_the_queue_is_full(openai: Any, serve: Serve, lab: Any) -> None:
    served = serve({"max_sessions": 1, "max_queue": 1})
    gate = ModelGate()
    with (
        hooked(lab.tiny().model, gate),
        openai.OpenAI(base_url=served.base_url, api_key="x") as client,
    ):
        busy = served.start("/v1/chat/completions", chat("one") | {"max_tokens": 1})
        gate.wait()
        waiting = served.start("/v1/chat/completions", chat("two") | {"max_tokens": 1})
        until(lambda: served.engine.stats().queued == 1)
        with pytest.raises(openai.RateLimitError, match="wait already") as caught:
            client.with_options(max_retries=0).chat.completions.create(**chat("three"))
        assert int(caught.value.response.headers["Retry-After"]) >= 1
        assert caught.value.code == "queue_full"
        gate.open()
        assert client.chat.completions.create(**chat("three"), max_tokens=1).choices
        for connection in (busy, waiting):
            assert connection.getresponse().status == 200
            connection.close()
