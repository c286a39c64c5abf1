"""A real model in a batch says what it says in each session alone."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from tests.support.managers import MakeManager

pytestmark = pytest.mark.transformers

STEPS = 200
BOUND = 1e-3  # of logits whose standard deviation is about 4; docs/transformers.md says it
QUESTIONS = (
    "Why is the sky blue?",
    "Write about the history of glass, from the beginning, and name the sources that you know.",
)


@pytest.fixture(scope="module")
def speaker(small_model_directory: Path) -> tuple[Any, Any]:
    """The model and its tokenizer."""
    transformers = importlib.import_module("transformers")
    importlib.import_module("torch").set_num_threads(1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(small_model_directory)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        small_model_directory, dtype="float32"
    )
    return model.eval(), tokenizer


def prompts(tokenizer: Any) -> list[list[int]]:
    texts = (
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
        )
        for question in QUESTIONS
    )
    return [tokenizer(text)["input_ids"] for text in texts]


def test_two_hundred_greedy_steps_are_those_of_each_session_alone(
    hf: Any, speaker: tuple[Any, Any], make_manager: MakeManager
) -> None:
    model, tokenizer = speaker
    manager = make_manager(1 << 28, "mmap")
    caches, single = (
        [hf.PooledCache.for_model(manager, model, f"{name}{i}") for i in range(2)] for name in "sa"
    )
    batch = hf.PooledBatch(caches)
    tokens = prompts(tokenizer)
    for _ in range(STEPS):
        step = batch.step(model, tokens)
        expected = [
            hf.forward(model, hf.torch.tensor([new]), cache, logits_to_keep=1)[0, -1]
            for new, cache in zip(tokens, single, strict=True)
        ]
        for mine, theirs in zip(step.logits, expected, strict=True):
            assert (mine - theirs).abs().max() < BOUND
        tokens = [[int(theirs.argmax())] for theirs in expected]
        assert [[int(mine.argmax())] for mine in step.logits] == tokens
    assert len({cache.get_seq_length() for cache in caches}) == 2
