"""The words of a real model are those that it says with a `DynamicCache`, whatever is reused."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kvpool.manager import KVCacheManager
from tests.support.managers import MakeManager

pytestmark = pytest.mark.transformers

ANSWER = 4
SYSTEM = (
    "You are the assistant of a public library. Say where a book stands, and be brief. The "
    "shelves are numbered from one to forty, and the catalogue is at the entrance."
)
Message = dict[str, str]


class Speaker:
    """The small model, which takes the likeliest token, with and without a pool."""

    def __init__(self, directory: Path) -> None:
        torch = importlib.import_module("torch")
        transformers = importlib.import_module("transformers")
        measuring = importlib.import_module("kvpool.integrations._transformers.measuring")
        torch.set_num_threads(1)  # other processes may be using the processors
        self.torch = torch
        self.dynamic = transformers.DynamicCache
        self.pooled = importlib.import_module("kvpool.integrations.transformers").PooledCache
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
        # In float32 it does not matter to the words in how many steps a prompt is read.
        self.model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype="float32")
        self.model.generation_config.update(do_sample=False, temperature=None, top_p=None)
        self.computed = 0
        self.model.register_forward_pre_hook(self._count, with_kwargs=True)
        self._argument = measuring.cache_argument(self.model)

    def ids(self, messages: Sequence[Message]) -> Any:
        """Return the tokens of a conversation, up to the answer that is wanted."""
        text = self.tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True
        )
        return self.tokenizer(text, return_tensors="pt")["input_ids"]

    def say(self, ids: Any, cache: Any, count: int = ANSWER) -> Any:
        """Return some tokens and how the model goes on from them."""
        return self.model.generate(
            ids,
            attention_mask=self.torch.ones_like(ids),
            max_new_tokens=count,
            **{self._argument: cache},
        )

    def text(self, said: Any, ids: Any) -> str:
        """Return the text of an answer."""
        words: str = self.tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True)
        return words

    def answer(self, manager: KVCacheManager, ids: Any, session: Any = "chat") -> tuple[Any, int]:
        """Answer with the pool; check that the words are those without it.

        Returns the tokens, and how many were computed.
        """
        expected = self.say(ids, self.dynamic())
        before = self.computed
        with self.pooled.for_tokens(manager, ids, session, model=self.model) as cache:
            said = self.say(ids, cache)
            cache.close(said)
        manager.check_integrity()
        assert self.text(said, ids) == self.text(expected, ids)
        assert self.torch.equal(said, expected)
        return said, self.computed - before

    def _count(self, _model: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        self.computed += kwargs["input_ids"].shape[1]


@pytest.fixture(scope="module")
def speaker(small_model_directory: Path) -> Speaker:
    return Speaker(small_model_directory)


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def test_it_speaks_english(speaker: Speaker, manager: KVCacheManager) -> None:
    ids = speaker.tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    said, _ = speaker.answer(manager, ids)
    assert "Paris" in speaker.text(said, ids)


def test_turns_and_forks(speaker: Speaker, make_manager: MakeManager) -> None:
    manager = make_manager(1 << 28, "mmap")
    messages = [{"role": "system", "content": SYSTEM}]
    known = 0
    for asked in ("Where is Moby Dick?", "And Emma?"):
        messages.append(user(asked))
        ids = speaker.ids(messages)
        said, computed = speaker.answer(manager, ids)
        assert computed - (ANSWER - 1) <= ids.shape[1] - known
        messages.append(assistant(speaker.text(said, ids)))
        known = ids.shape[1] - 1
    for branch in ("left", "right"):
        ids = speaker.ids([*messages, user(f"Is that on the {branch}?")])
        _, computed = speaker.answer(manager, ids, branch)
        assert computed - (ANSWER - 1) < 30 < known
    sources = manager.get_stats().prefix.tokens_by_source
    assert sources["continued"] > 0
    assert sources["forked"] > 2 * known - 60


def test_edits_and_shorter_texts(speaker: Speaker, make_manager: MakeManager) -> None:
    manager = make_manager(1 << 28)
    messages = [{"role": "system", "content": SYSTEM}, user("Where is Moby Dick?")]
    said, _ = speaker.answer(manager, speaker.ids(messages))
    edited = speaker.ids([messages[0], user("Where is Robinson Crusoe, and who wrote it?")])
    _, computed = speaker.answer(manager, edited)
    assert computed < 30
    for length in (said.shape[1] - 1, 20):
        _, computed = speaker.answer(manager, said[:, :length])
        assert computed < 30


def test_sessions_share_a_system_prompt(speaker: Speaker, make_manager: MakeManager) -> None:
    manager = make_manager(1 << 28, "mmap")
    system = {"role": "system", "content": SYSTEM}
    counts = []
    for number, asked in enumerate(("Where is Emma?", "Good morning!")):
        _, computed = speaker.answer(manager, speaker.ids([system, user(asked)]), number)
        counts.append(computed - (ANSWER - 1))
    assert counts[0] > 40
    assert max(counts[1:]) < 15


def test_an_evicted_session_goes_on(speaker: Speaker, make_manager: MakeManager) -> None:
    token = 2 * 30 * 3 * 64 * 4
    manager = make_manager(150 * token)
    messages = [user("Name a colour.")]
    said, _ = speaker.answer(manager, speaker.ids(messages))
    for number in range(2):
        speaker.answer(manager, speaker.ids([user(f"What is {number} plus {number}?")]), number)
    assert manager.get_stats().evictions > 0
    messages += [assistant(speaker.text(said, speaker.ids(messages))), user("And another one.")]
    speaker.answer(manager, speaker.ids(messages))
