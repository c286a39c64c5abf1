"""A model goes on after a restart with what a tier gives back: the same logits, to the bit."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from kvpool.manager import KVCacheManager
from kvpool.tiers import TierStore

pytestmark = pytest.mark.transformers

CHUNK = 16
HELD, ASKED, ROOM = 3 * CHUNK, 3 * CHUNK + 10, 128  # whole chunks are held


class Life:
    """One life of a process: a pool over a tier on a disk."""

    def __init__(self, hf: Any, model: Any, folder: Path) -> None:
        self._hf, self._model = hf, model
        self.store = TierStore([f"disk:{folder}?decline=no"], chunk_tokens=CHUNK)
        layout = hf.model_layout(model)
        self.manager = KVCacheManager(
            2 * layout.geometry(ROOM).nbytes,
            layout=layout,
            receipts=False,
            chunk_tokens=CHUNK,
            tiers=self.store,
        )

    def logits(self, text: Any) -> Any:
        """Return the logits of the tokens of a text that were not known."""
        with self._hf.PooledCache.for_tokens(
            self.manager, text, "ada", model=self._model, max_context_length=ROOM
        ) as cache:
            rest = text[:, cache.get_seq_length() :]
            found = self._hf.forward(self._model, rest, cache)
            cache.close(text)
        self.manager.check_integrity()
        return found

    def loaded(self) -> int:
        """Return how many tokens came from the tier."""
        return self.manager.get_stats().prefix.tokens_by_source["loaded"]

    def end(self) -> None:
        """Store what waits, and close."""
        self.manager.close(60.0)
        self.store.close(60.0)


@pytest.fixture(params=["a random model", "a real model"])
def model(request: pytest.FixtureRequest, hf: Any) -> Any:
    """A small model in float32."""
    if request.param == "a random model":
        return hf.model()
    directory = request.getfixturevalue("small_model_directory")
    transformers = importlib.import_module("transformers")
    return transformers.AutoModelForCausalLM.from_pretrained(directory, dtype="float32")


def test_logits_after_a_restart_are_those_of_a_process_that_went_on(
    hf: Any, model: Any, tmp_path: Path
) -> None:
    text = hf.words(ASKED)
    first = Life(hf, model, tmp_path / "kv")
    first.logits(text[:, :HELD])
    went_on = first.logits(text)
    assert (went_on.shape[1], first.loaded()) == (ASKED - HELD, 0)
    first.end()

    second = Life(hf, model, tmp_path / "kv")
    after = second.logits(text)
    assert second.loaded() == HELD
    assert hf.torch.equal(after, went_on)
    second.end()
