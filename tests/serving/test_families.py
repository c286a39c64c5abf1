"""Models of other families: in one batch, or each session alone if a batch refuses them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kvpool.serving import Engine, ModelFailedError, Request

pytestmark = pytest.mark.transformers

MakeEngine = Callable[..., Engine]

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "windows": ("Mistral", {"sliding_window": 8}),
    "without positions": ("Bloom", {}),
    "an embedding that grows": (
        "Llama",
        {
            "max_position_embeddings": 16,
            "rope_parameters": {"rope_type": "dynamic", "factor": 8.0, "rope_theta": 10_000.0},
        },
    ),
}
PROMPTS = [[2, 3, 4], [5] * 7, list(range(2, 22))]


@pytest.mark.parametrize("name", FAMILIES)
def test_each_says_what_it_says_alone(
    lab: Any, make_engine: MakeEngine, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, options = FAMILIES[name]
    model = lab.of_family(family, **options)
    if name == "an embedding that grows":  # the model can attend to more than its first length
        monkeypatch.setattr(model.config, "max_position_embeddings", 128)
    engine = make_engine(model=model, prefill_tokens=64)
    generations = [engine.submit(Request(tokens=prompt, max_tokens=12)) for prompt in PROMPTS]
    for prompt, generation in zip(PROMPTS, generations, strict=True):
        assert generation.result(60).token_ids == lab.alone(prompt, 12, model=model)


def test_a_session_that_fails_alone_takes_no_other_down(lab: Any, make_engine: MakeEngine) -> None:
    model = lab.of_family("Bloom")

    def refuse(_module: Any, args: tuple[Any]) -> None:
        if (args[0] == 13).any():
            raise ValueError("unlucky")

    handle = model.get_input_embeddings().register_forward_pre_hook(refuse)
    engine = make_engine(model=model)
    good, bad = (engine.submit(Request(tokens=[2, n], max_tokens=4)) for n in (3, 13))
    with pytest.raises(ModelFailedError, match=r"the model failed \(ValueError: unlucky\)"):
        bad.result(60)
    handle.remove()
    assert good.result(60).token_ids == lab.alone([2, 3], 4, model=model)
