"""A real model from end to end: chats, edits, evictions, other models, and a second process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvpool import KVCacheManager
from tests.integrations.llama_cpp.test_pooled_llama import words
from tests.support import needs

pytestmark = pytest.mark.engines

OPTIONS = {"n_ctx": 1536, "n_threads": 1, "n_threads_batch": 1, "verbose": False}
LIFE = Path(__file__).parents[2] / "support" / "llama_life.py"
RULES = "".join(f"Shelf {n} has the books of the letter {chr(65 + n % 26)}. " for n in range(30))
QUESTIONS = ("What is on shelf 3?", "Which shelf has the books of G?")


@pytest.fixture(scope="module")
def file(llama: Any) -> str:
    assert llama.OPTIONS
    return str(needs.small_model())


@pytest.fixture
def real(llama: Any, file: str) -> Iterator[Any]:
    """The real model without a pool."""
    one = llama.Llama(file, **OPTIONS)
    yield one
    one.close()


def say(model: Any, messages: list[dict[str, str]]) -> str:
    """Return what a model answers in a chat, without chance."""
    answer = model.create_chat_completion(messages, max_tokens=6, temperature=0)
    return str(answer["choices"][0]["message"]["content"])


def test_chats_with_two_models_edits_and_evictions_say_the_same_words(
    llama: Any, file: str, model_files: list[Path], real: Any
) -> None:
    tiny = llama.Llama(str(model_files[0]), **llama.OPTIONS)
    with KVCacheManager("12MiB", backend="mmap", policy="lru") as manager:
        pooled = llama.PooledLlama(file, manager=manager, **OPTIONS)
        small = llama.PooledLlama(
            str(model_files[0]), manager=manager, block_tokens=16, **llama.OPTIONS
        )
        restored = 0
        for name in ("Ada", "Bo", "Ada"):
            system = {"role": "system", "content": f"You are {name}'s librarian. {RULES[:480]}"}
            chat = [system]
            for question in QUESTIONS:
                chat.append({"role": "user", "content": question})
                real.reset()
                said = say(real, chat)
                assert say(pooled, chat) == said
                restored += pooled.restored_tokens
                chat.append({"role": "assistant", "content": said})
            chat[1:] = [{"role": "user", "content": QUESTIONS[-1]}]  # an edit of the first turn
            real.reset()
            assert say(pooled, chat) == say(real, chat)
            tiny.reset()
            assert words(small, RULES[:90] + name) == words(tiny, RULES[:90] + name)
            manager.check_integrity()
        stats = manager.get_stats()
        assert stats.evictions > 0
        assert restored > 0
        assert not any(map(manager.is_open, manager))
        for one in (pooled, small, tiny):
            one.close()


def test_restored_tokens_of_a_real_model_give_the_same_logits_to_the_bit(
    llama: Any, file: str, manager: KVCacheManager
) -> None:
    ends = "Question: what is on shelf 7?\nAnswer: on shelf 7"
    options = OPTIONS | {"logits_all": True}
    first, second, expected = (
        llama.PooledLlama(file, manager=manager, salt=salt, **options) for salt in ("", "", "other")
    )
    prompt = first.tokenize((RULES + ends).encode())
    shared = first.tokenize(RULES.encode())
    split = len(shared) // 64 * 64
    next(first.generate(shared[:split], temp=0))
    next(second.generate(prompt, temp=0))
    assert second.restored_tokens == split >= 256
    expected.eval(prompt[:split])
    expected.eval(prompt[split:])
    np.testing.assert_array_equal(
        second.scores[split : len(prompt)], expected.scores[split : len(prompt)]
    )
    for one in (first, second, expected):
        one.close()


def live(file: str, tier: str, prompt: str) -> dict[str, Any]:
    """Return what another process has answered."""
    command = [sys.executable, str(LIFE), file, tier, prompt]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_the_next_process_goes_on_from_the_tier(file: str, real: Any, tmp_path: Path) -> None:
    tier = f"disk:{tmp_path / 'kv'}?capacity=256MiB&codec=zstd"
    first = live(file, tier, RULES)
    assert (first["restored"], first["loaded"]) == (0, 0)
    assert first["words"] == words(real, RULES, 8)
    # A prompt that is computed in other parts has other last bits, so the answer must be clear.
    prompt = f"{RULES}{first['words']}\nQuestion: what is on shelf 7?\nAnswer: on shelf 7 are"
    second = live(file, tier, prompt)
    assert second["restored"] == second["loaded"] >= first["tokens"] // 64 * 64 >= 256
    real.reset()
    assert second["words"] == words(real, prompt, 8)
