"""Conversations at once say the words that a real model says in each alone."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from kvpool.serving import Engine, Request, Sampling
from tests.support.managers import MakeManager

pytestmark = pytest.mark.transformers

ANSWER = 4
SYSTEM = {
    "role": "system",
    "content": "You are the assistant of a public library. Say where a book stands, and be brief. "
    "The shelves are numbered from one to forty.",
}
ASKED = [
    ["Where is Moby Dick?", "And Emma?"],
    ["Good morning!", "Thank you."],
    ["Name three colours.", "Name another one."],
    ["What is the capital of France?", "And of Italy?"],
    ["Count from one to five.", "Go on."],
    ["Who wrote Hamlet?", "When?"],
    ["Is it open on Sunday?", "And on Monday? " * 6],
    ["Sag mir ein deutsches Wort für “Käse”! " * 2, "日本語で。"],
]


def test_eight_conversations_at_once(
    small_model_directory: Path, make_manager: MakeManager, caplog: pytest.LogCaptureFixture
) -> None:
    transformers = importlib.import_module("transformers")
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)  # other processes may be using the processors
    tokenizer = transformers.AutoTokenizer.from_pretrained(small_model_directory)
    # In float32 it does not matter to the words in how many steps a prompt is read.
    model = transformers.AutoModelForCausalLM.from_pretrained(
        small_model_directory, dtype="float32"
    ).eval()

    def alone(ids: Any) -> tuple[int, ...]:
        row = torch.tensor([ids])
        made = model.generate(
            row, attention_mask=torch.ones_like(row), max_new_tokens=ANSWER, do_sample=False,
            temperature=1.0, top_p=1.0,
        )  # fmt: skip
        return tuple(made[0, len(ids) :].tolist())

    manager = make_manager(1 << 28, "mmap")
    conversations: list[list[dict[str, str]]] = [[SYSTEM] for _ in ASKED]
    with Engine(model, tokenizer, manager, prefill_tokens=64) as engine:
        for turn in range(2):
            generations = []
            for messages, asked in zip(conversations, ASKED, strict=True):
                messages.append({"role": "user", "content": asked[turn]})
                request = Request(
                    messages=messages, max_tokens=ANSWER, sampling=Sampling(temperature=0)
                )
                generations.append(engine.submit(request))
            for messages, generation in zip(conversations, generations, strict=True):
                done = generation.result(300)
                assert done.token_ids == alone(generation.prompt_token_ids)
                words = tokenizer.decode(done.token_ids, skip_special_tokens=True)
                assert done.text == "".join(piece.text for piece in generation) == words
                messages.append({"role": "assistant", "content": done.text})
        stats = engine.stats()
    assert stats.cached_tokens > stats.prompt_tokens / 2  # the system prompt, and the first turns
    assert stats.steps < stats.completion_tokens / 2
    assert [record.message for record in caplog.records if "flags" in record.message] == []
