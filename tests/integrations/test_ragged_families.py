"""Every causal model type of transformers in a batch: as each session alone, or refused."""

from __future__ import annotations

import gc
import importlib
import string
from typing import Any

import pytest
from packaging.version import Version

from kvpool.errors import InvalidLayoutError, UnbatchableModelError
from kvpool.manager import KVCacheManager
from tests.support.managers import MakeManager

pytestmark = pytest.mark.transformers

# What attends, or counts positions, in a way of its own.
REFUSED = {
    "bart",
    "big_bird",
    "bigbird_pegasus",
    "blenderbot",
    "blenderbot-small",
    "bloom",
    "camembert",
    "data2vec-text",
    "diffllama",
    "doge",
    "falcon",
    "git",
    "gpt_neo",
    "gpt_neox_japanese",
    "jetmoe",
    "marian",
    "mbart",
    "megatron-bert",
    "moss_transcribe_diarize",
    "mpt",
    "mvp",
    "pegasus",
    "plbart",
    "prophetnet",
    "rembert",
    "roberta",
    "roberta-prelayernorm",
    "roformer",
    "trocr",
    "whisper",
    "xglm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}

# From transformers 5.24 on, these attend by what is registered.
REFUSED_BEFORE_5_24 = {"codegen", "gptj"}

# Prefill, decode, and both in one step.
COUNTS = ((6, 1, 9), (1, 1, 1), (3, 1, 1), (1, 5, 1), (1, 1, 1))


@pytest.fixture
def causal_models(hf: Any) -> Any:
    """The module `tests.support.causal_models`, which imports torch and transformers."""
    del hf
    return importlib.import_module("tests.support.causal_models")


@pytest.mark.parametrize("initial", string.ascii_lowercase)
def test_a_type_computes_what_each_session_computes_alone_or_is_refused(
    hf: Any,
    causal_models: Any,
    make_manager: MakeManager,
    subtests: pytest.Subtests,
    initial: str,
) -> None:
    for model_type in causal_models.MODEL_TYPES:
        if not model_type.startswith(initial) or model_type in causal_models.UNBUILT:
            continue
        with subtests.test(model_type):
            gc.collect()  # the model before
            check(hf, make_manager(), causal_models.causal_model(model_type), model_type)


def is_refused(hf: Any, model_type: str) -> bool:
    is_old = Version(hf.transformers.__version__) < Version("5.24")
    return model_type in REFUSED or (is_old and model_type in REFUSED_BEFORE_5_24)


def check(hf: Any, manager: KVCacheManager, model: Any, model_type: str) -> None:
    try:
        hf.model_layout(model)
    except InvalidLayoutError:
        pytest.skip("no pool holds its cache")
    caches = [hf.PooledCache.for_model(manager, model, f"s{i}") for i in range(3)]
    alone = [hf.PooledCache.for_model(manager, model, f"a{i}") for i in range(3)]
    batch = hf.PooledBatch(caches)
    for number, counts in enumerate(COUNTS):
        tokens = [hf.words(count, seed=10 * number + i)[0] for i, count in enumerate(counts)]
        if is_refused(hf, model_type):
            with pytest.raises(UnbatchableModelError, match=type(model).__name__):
                batch.step(model, tokens)
            assert all(cache.get_seq_length() == 0 for cache in caches)
            return
        step = batch.step(model, tokens)
        assert step.errors == [None] * 3
        for mine, one, cache in zip(step.logits, tokens, alone, strict=True):
            expected = hf.forward(model, one[None], cache)[0, -1]
            assert (mine - expected).abs().max() < 1e-4 * expected.std()
