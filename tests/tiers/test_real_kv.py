"""The lossless codec on keys and values of the real model: what the texts say of its ratio."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvpool import KVLayout
from kvpool.layout import DTYPES
from kvpool.prefix import Identity, token_bytes
from kvpool.tiers import chunks_of, decode_chunk, encode_chunk, open_codec
from tests.support import needs
from tests.support.docs_pages import DOCS

pytestmark = pytest.mark.transformers

TEXT = Path(__file__).parents[2].joinpath("LICENSE")


def test_the_ratio_of_zstd(small_model_directory: Path) -> None:
    """To the bit, and as small as the page says, to two digits."""
    transformers, torch = needs.transformers(), pytest.importorskip("torch")
    tokenizer = transformers.AutoTokenizer.from_pretrained(small_model_directory)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        small_model_directory, dtype=torch.bfloat16
    )
    ids: list[int] = tokenizer(TEXT.read_text())["input_ids"][:128]
    with torch.no_grad():
        _logits, cache = model(torch.tensor([ids]), use_cache=True).to_tuple()
    layers = cache.layers
    keys, values = (
        np.stack([_array(getattr(layer, name)) for layer in layers]) for name in ("keys", "values")
    )
    layout = KVLayout(len(layers), keys.shape[1], keys.shape[3], "bfloat16")
    codec, exact, stored = open_codec("zstd"), 0, 0
    for chunk in chunks_of(Identity("model", "", layout), token_bytes(ids), 64):
        place = np.s_[:, :, chunk.start : chunk.start + chunk.tokens]
        data = chunk.empty()
        data[:, 0], data[:, 1] = keys[place], values[place]
        value = b"".join(map(bytes, encode_chunk(chunk, data, codec)))
        assert decode_chunk(memoryview(value), chunk, codec).tobytes() == data.tobytes()
        exact, stored = exact + chunk.nbytes, stored + len(value)
    shown = re.search(r"([\d.]+) to 1", (DOCS / "tiers.md").read_text(encoding="utf-8"))
    assert shown
    assert exact / stored == pytest.approx(float(shown[1]), abs=0.015)


def _array(tensor: Any) -> Any:
    """Return a bfloat16 tensor of one session as an array."""
    torch = pytest.importorskip("torch")
    return tensor[0].contiguous().view(torch.uint16).numpy().view(DTYPES["bfloat16"])
