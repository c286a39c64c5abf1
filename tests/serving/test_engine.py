"""An engine says what the model says alone, whatever else it serves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from kvpool.errors import ContextOverflowError, InvalidArgumentError, InvalidTokensError
from kvpool.serving import (
    Engine,
    EngineClosedError,
    Generation,
    Request,
    Sampling,
    TokenPiece,
)

pytestmark = pytest.mark.transformers

MakeEngine = Callable[..., Engine]
TEXTS = ["a pool", "the pool of the manager", "a view of the entry " * 20, "the block", "x"]


def test_many_at_once_say_what_each_says_alone(lab: Any, make_engine: MakeEngine) -> None:
    engine = make_engine()
    generations = [engine.submit(Request(prompt=text, max_tokens=12)) for text in TEXTS]
    for text, generation in zip(TEXTS, generations, strict=True):
        done = generation.result(60)
        ids = lab.tokens(text)
        assert list(generation.prompt_token_ids) == ids
        assert done.token_ids == lab.alone(ids, 12)
        assert done.text == lab.text_of(done.token_ids)
        assert (done.finish_reason, done.usage.completion_tokens) == ("length", 12)
        assert done.usage.prompt_tokens == len(ids)


def test_tokens_and_messages_are_prompts_as_well(lab: Any, make_engine: MakeEngine) -> None:
    engine = make_engine()
    ids = lab.tokens("a view")
    for given in (ids, lab.torch.tensor(ids), tuple(ids)):
        done = engine.submit(Request(tokens=given, max_tokens=3)).result(60)
        assert done.token_ids == lab.alone(ids, 3)
    messages = [{"role": "user", "content": "hello"}]
    generation = engine.submit(Request(messages=messages, max_tokens=3))
    assert list(generation.prompt_token_ids) == lab.tokens(
        "<|start|>user\nhello<|end|>\n<|start|>assistant\n"
    )


def test_a_seed_gives_the_tokens_of_generate(lab: Any, make_engine: MakeEngine) -> None:
    engine = make_engine()
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"temperature": 0.7}, {"temperature": 0.7}),
        ({"top_p": 0.6}, {"top_p": 0.6}),
        ({"temperature": 1.3, "top_k": 5}, {"temperature": 1.3, "top_k": 5}),
        ({"min_p": 0.2}, {"min_p": 0.2}),
        (
            {"temperature": 2.0, "repetition_penalty": 1.5},
            {"temperature": 2.0, "repetition_penalty": 1.5},
        ),
        (
            {"temperature": 1.0, "logit_bias": {400: 9.0, 500: 9.5}},
            {"temperature": 1.0, "sequence_bias": {(400,): 9.0, (500,): 9.5}},
        ),
    ]
    ids = lab.tokens("the pool")
    generations = [
        engine.submit(
            Request(tokens=ids, max_tokens=8, sampling=Sampling(seed=seed, **asked), salt=str(seed))
        )
        for seed, (asked, _) in enumerate(cases)
    ]
    said = set()
    for seed, (generation, (_, options)) in enumerate(zip(generations, cases, strict=True)):
        wanted = lab.alone(ids, 8, seed, **{"do_sample": True, "temperature": None} | options)
        assert generation.result(60).token_ids == wanted
        said.add(wanted)
    assert len(said) == len(cases)


def test_a_temperature_of_0_is_greedy_whatever_the_model_says(
    lab: Any, make_engine: MakeEngine
) -> None:
    engine = make_engine(generation_config=lab.settings(do_sample=True, temperature=1.5))
    ids = lab.tokens("a lease")
    greedy = Request(tokens=ids, max_tokens=6, sampling=Sampling(temperature=0))
    assert engine.submit(greedy).result(60).token_ids == lab.alone(ids, 6)
    sampled = [engine.submit(Request(tokens=ids, max_tokens=6)).result(60) for _ in range(3)]
    assert len({done.token_ids for done in sampled}) > 1


def test_penalties_are_for_tokens_of_the_answer(lab: Any, make_engine: MakeEngine) -> None:
    engine = make_engine()
    ids = lab.tokens("a view of the entry " * 5)
    plain = lab.alone(ids, 20)
    assert len(set(plain)) < 15
    for sampling in (Sampling(presence_penalty=100), Sampling(frequency_penalty=100)):
        said = engine.submit(Request(tokens=ids, max_tokens=20, sampling=sampling)).result(60)
        assert len(set(said.token_ids)) == 20
        assert said.token_ids[0] == plain[0]


def test_pieces_make_up_the_answer(make_engine: MakeEngine) -> None:
    generation = make_engine().submit(Request(prompt="a pool", max_tokens=9))
    pieces = list(generation)
    done = generation.result(0)
    assert len(pieces) > 3
    assert "".join(piece.text for piece in pieces) == done.text
    assert tuple(token for piece in pieces for token in piece.token_ids) == done.token_ids
    assert [piece.finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + ["length"]
    assert list(generation) == pieces  # again


def test_pieces_in_an_event_loop(lab: Any, make_engine: MakeEngine) -> None:
    engine = make_engine()

    async def read(generation: Generation) -> list[TokenPiece]:
        async with generation:
            return [piece async for piece in generation]

    async def read_all() -> list[list[TokenPiece]]:
        generations = [engine.submit(Request(prompt=text, max_tokens=6)) for text in TEXTS]
        read_pieces = await asyncio.gather(*map(read, generations))
        assert [(await one.aresult()).token_ids for one in generations] == [
            tuple(token for piece in pieces for token in piece.token_ids) for pieces in read_pieces
        ]
        return list(read_pieces)

    for text, pieces in zip(TEXTS, asyncio.run(read_all()), strict=True):
        wanted = lab.alone(lab.tokens(text), 6)
        assert "".join(piece.text for piece in pieces) == lab.text_of(wanted)


def test_an_end_token_ends_and_is_not_shown(lab: Any, make_engine: MakeEngine) -> None:
    ids = lab.tokens("a pool")
    wanted = lab.alone(ids, 10)
    engine = make_engine(generation_config=lab.settings(eos_token_id=[1, wanted[4]]))
    done = engine.submit(Request(tokens=ids, max_tokens=10)).result(60)
    first = wanted.index(wanted[4]) + 1
    assert done.token_ids == wanted[:first]
    assert (done.finish_reason, done.text) == ("stop", lab.text_of(wanted[: first - 1]))


def test_logprobs(lab: Any, make_engine: MakeEngine) -> None:
    engine = make_engine()
    ids = lab.tokens("a pool")
    done = engine.submit(Request(tokens=ids, max_tokens=4, logprobs=3)).result(60)
    with lab.torch.no_grad():
        logits = lab.tiny().model(lab.torch.tensor([[*ids, *done.token_ids[:-1]]])).logits[0]
    told = lab.torch.log_softmax(logits[len(ids) - 1 :].float(), dim=-1)
    assert len(done.logprobs) == 4
    for row, token, one in zip(told, done.token_ids, done.logprobs, strict=True):
        assert (one.token_id, one.text) == (token, lab.text_of([token]))
        assert one.logprob == pytest.approx(float(row[token]), abs=1e-4)
        best = row.topk(3)
        assert [other.token_id for other in one.alternatives] == best.indices.tolist()
        assert [other.logprob for other in one.alternatives] == pytest.approx(
            best.values.tolist(), abs=1e-4
        )
    plain = engine.submit(Request(tokens=ids, max_tokens=4)).result(60)
    assert plain.logprobs == ()
    chosen = engine.submit(Request(tokens=ids, max_tokens=4, logprobs=0)).result(60)
    assert [one.alternatives for one in chosen.logprobs] == [()] * 4


@pytest.mark.parametrize(
    ("request_of", "error", "text"),
    [
        (lambda: Request(tokens=[]), InvalidArgumentError, "no tokens"),
        (lambda: Request(tokens=[1, 768]), InvalidTokensError, "from 0 to 767, and not 768"),
        (lambda: Request(tokens=[-1]), InvalidTokensError, "and not -1"),
        (lambda: Request(tokens=[1.5]), InvalidTokensError, "1.5"),
        (lambda: Request(tokens=[1] * 4096), ContextOverflowError, "4096 tokens"),
        (
            lambda: Request(tokens=[1] * 4000, max_tokens=97),
            ContextOverflowError,
            "4000 tokens of prompt and 97 to generate exceed the 4096",
        ),
        (lambda: "hello", InvalidArgumentError, "'hello'"),
    ],
)
def test_a_request_that_cannot_be_served_is_refused(
    make_engine: MakeEngine, request_of: Any, error: type[Exception], text: str
) -> None:
    engine = make_engine()
    with pytest.raises(error, match=text):
        engine.submit(request_of())
    assert engine.stats().accepted == 0


def test_a_request_that_the_pool_could_never_hold_is_refused(
    make_engine: MakeEngine, make_manager: Any
) -> None:
    engine = make_engine(make_manager(1 << 16))
    with pytest.raises(
        ContextOverflowError, match="need 66560 bytes, and the whole pool has 65536"
    ):
        engine.submit(Request(tokens=[1] * 120, max_tokens=10))
    assert engine.submit(Request(tokens=[1] * 118, max_tokens=10)).result(60).text


def test_a_closed_engine_refuses(make_engine: MakeEngine) -> None:
    engine = make_engine()
    with engine:
        generation = engine.submit(Request(prompt="a", max_tokens=5))
    assert generation.result(0).finish_reason == "length"  # it was drained
    assert engine.is_closed
    with pytest.raises(EngineClosedError, match="is closed"):
        engine.submit(Request(prompt="a"))
    engine.close()
