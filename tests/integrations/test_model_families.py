"""Every causal model type of transformers: bits of a `DynamicCache`, or a reason in our words."""

from __future__ import annotations

import gc
import importlib
import string
from contextlib import suppress
from typing import Any

import pytest

from kvpool.errors import InvalidLayoutError
from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager
from tests.support.managers import MakeManager

pytestmark = pytest.mark.transformers


def steps(hf: Any, counts: tuple[int, ...]) -> list[Any]:
    return [hf.words(count, seed=number) for number, count in enumerate(counts)]


def logits(hf: Any, model: Any, caches: list[Any], counts: tuple[int, ...]) -> list[Any] | str:
    """The logits of each step with the first cache that the model takes, or what it raises."""
    raised = ""
    for cache in caches:
        try:
            return [hf.forward(model, step, cache, use_cache=True) for step in steps(hf, counts)]
        except Exception as error:
            raised = raised or f"{type(error).__name__}: {error}"
    return raised


def dynamic_caches(hf: Any, model: Any) -> list[Any]:
    try:
        return [hf.DynamicCache(config=model.config), hf.DynamicCache()]
    except Exception:  # of a configuration that names no layers
        return [hf.DynamicCache()]


@pytest.fixture
def causal_models(hf: Any) -> Any:
    """The module `tests.support.causal_models`, which imports torch and transformers."""
    del hf
    return importlib.import_module("tests.support.causal_models")


def test_the_types_are_those_of_transformers(causal_models: Any) -> None:
    assert len(causal_models.MODEL_TYPES) > 150
    assert set(causal_models.UNBUILT) < set(causal_models.MODEL_TYPES)
    assert {name[0] for name in causal_models.MODEL_TYPES} <= set(string.ascii_lowercase)


@pytest.mark.parametrize("initial", string.ascii_lowercase)
def test_a_type_has_the_bits_of_a_dynamic_cache_or_is_refused(
    hf: Any,
    causal_models: Any,
    make_manager: MakeManager,
    subtests: pytest.Subtests,
    initial: str,
) -> None:
    for model_type in causal_models.MODEL_TYPES:
        if not model_type.startswith(initial):
            continue
        with subtests.test(model_type):
            if model_type in causal_models.UNBUILT:
                pytest.skip(causal_models.UNBUILT[model_type])
            gc.collect()  # the model before
            check(hf, make_manager(), causal_models.causal_model(model_type))


def check(hf: Any, manager: KVCacheManager, model: Any) -> None:
    said = None
    with suppress(InvalidLayoutError):
        said = KVLayout.from_config(model.config, "float32")
    try:
        pooled = hf.PooledCache.for_model(manager, model, "s")
    except InvalidLayoutError as refusal:
        text = str(refusal)
        assert type(model).__name__ in text or "of the type" in text or "configuration" in text
        assert said is None or "cannot be measured" in text  # the configuration says no more
        assert not manager.session_keys()
        return
    # What a configuration says is right, or it says nothing.
    assert said in {None, hf.model_layout(model)}
    for counts in ((6, 1, 1, 3, 1), (1,) * 7):  # some types take one token at a time
        expected = logits(hf, model, dynamic_caches(hf, model), counts)
        found = logits(hf, model, [pooled], counts)
        if isinstance(expected, list):
            break
        assert isinstance(found, str)
        pooled.reset()
    assert isinstance(expected, list), expected
    assert isinstance(found, list), found
    assert all(map(hf.torch.equal, found, expected))
    assert pooled.get_seq_length() == sum(counts)
