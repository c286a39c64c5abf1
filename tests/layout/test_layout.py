from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpool.arena import MIN_ALIGNMENT
from kvpool.errors import InvalidLayoutError
from kvpool.layout import DTYPES, EntryGeometry, KVLayout

dimensions = st.integers(1, 9)
layouts = st.builds(KVLayout, dimensions, dimensions, dimensions, st.sampled_from(sorted(DTYPES)))


@pytest.mark.parametrize(
    ("dtype", "itemsize"), [("float32", 4), ("float16", 2), ("bfloat16", 2), ("int8", 1)]
)
def test_bytes_per_token(dtype: str, itemsize: int) -> None:
    layout = KVLayout(layers=3, kv_heads=5, head_dim=7, dtype=dtype)
    assert layout.dtype.name == dtype
    assert layout.bytes_per_token == 2 * 3 * 5 * 7 * itemsize


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (np.float32, "float32"),
        (np.dtype(np.float16), "float16"),
        (ml_dtypes.bfloat16, "bfloat16"),
        (np.dtype("=i1"), "int8"),
    ],
)
def test_a_dtype_is_given_by_name_or_as_it_is(dtype: Any, name: str) -> None:
    assert KVLayout(1, 1, 1, dtype) == KVLayout(1, 1, 1, name)


def test_float16_is_the_default() -> None:
    assert KVLayout(1, 1, 1) == KVLayout(1, 1, 1, "float16")


@pytest.mark.parametrize("dimension", ["layers", "kv_heads", "head_dim"])
@pytest.mark.parametrize("value", [0, -3, 2.5, "4", None])
def test_a_bad_dimension_is_named_with_its_value(dimension: str, value: Any) -> None:
    sizes: dict[str, Any] = {"layers": 1, "kv_heads": 1, "head_dim": 1, dimension: value}
    with pytest.raises(InvalidLayoutError, match=rf"^{dimension} must .* {value!r}$"):
        KVLayout(**sizes)


@pytest.mark.parametrize("value", [0, -1, 1.5, "many", None])
def test_a_bad_context_length_is_named_with_its_value(value: Any) -> None:
    with pytest.raises(InvalidLayoutError, match=rf"^max_context_length must .* {value!r}$"):
        KVLayout(1, 1, 1).geometry(value)


@pytest.mark.parametrize(
    "dtype", ["float64", "bf16", "f4", ">f4", "", np.float64, np.dtype(">f4"), object, None, [1]]
)
def test_a_bad_dtype_is_named(dtype: Any) -> None:
    with pytest.raises(InvalidLayoutError) as caught:
        KVLayout(1, 1, 1, dtype)
    assert str(caught.value).startswith(
        f"unsupported dtype {dtype!r}; use float32, float16, bfloat16 or int8"
    )


def test_whole_numbers_of_numpy_become_ints() -> None:
    sizes: Any = np.int16(200)
    layout = KVLayout(sizes, sizes, sizes)
    assert layout.bytes_per_token == 2 * 200**3 * 2
    assert type(layout.layers) is int
    assert type(layout.geometry(sizes).nbytes) is int


def test_layouts_are_values() -> None:
    layout = KVLayout(2, 3, 5, "bfloat16")
    assert layout == pickle.loads(pickle.dumps(layout))
    assert hash(layout) == hash(KVLayout(2, 3, 5, "bfloat16"))
    assert len({layout, KVLayout(2, 3, 5, "float16"), KVLayout(3, 2, 5, "bfloat16")}) == 3
    assert str(layout) == "2 x 3 x 5 bfloat16"


@pytest.mark.parametrize("field", ["layers", "kv_heads", "head_dim", "dtype"])
def test_layouts_do_not_change(field: str) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(KVLayout(2, 3, 5), field, 9)


def own_bytes(geometry: EntryGeometry) -> dict[int, tuple[int, int, int, int]]:
    """Return region, layer, head and token of each token's first byte, by the documented order."""
    layout, found = geometry.layout, {}
    for region in range(2):
        for layer in range(layout.layers):
            for head in range(layout.kv_heads):
                run = (region * layout.layers + layer) * layout.kv_heads + head
                for token in range(geometry.max_context_length):
                    at = run * geometry.head_stride + token * geometry.token_stride
                    found[at] = (region, layer, head, token)
    return found


@given(layouts, dimensions)
def test_regions_layers_heads_and_tokens_lie_in_this_order(layout: KVLayout, context: int) -> None:
    geometry = layout.geometry(context)
    root = np.zeros(geometry.nbytes, np.uint8)
    for at, (region, layer, head, token) in own_bytes(geometry).items():
        view = geometry.layer_view(root, layer, token, 1)[region, head, 0]
        full = geometry.full_view(root, token, 1)[region, layer, head, 0]
        for array in (view, full):
            assert array.ctypes.data - root.ctypes.data == at
            assert array.shape == (layout.head_dim,)
            assert array.flags.c_contiguous
            assert array.dtype == layout.dtype


@given(layouts, dimensions)
def test_runs_of_heads_are_aligned_and_do_not_overlap(layout: KVLayout, context: int) -> None:
    geometry = layout.geometry(context)
    run = context * layout.head_dim * layout.dtype.itemsize
    assert geometry.head_stride % MIN_ALIGNMENT == 0
    assert run <= geometry.head_stride < run + MIN_ALIGNMENT
    assert geometry.layer_stride == layout.kv_heads * geometry.head_stride
    assert geometry.value_offset == layout.layers * geometry.layer_stride
    assert geometry.nbytes == 2 * geometry.value_offset
    assert geometry.nbytes >= context * layout.bytes_per_token


@given(layouts, dimensions)
def test_views_of_a_full_context_cover_all_but_the_padding(layout: KVLayout, context: int) -> None:
    geometry = layout.geometry(context)
    root = np.zeros(geometry.nbytes, np.uint8)
    for layer in range(layout.layers):
        geometry.layer_view(root, layer, 0, context)[...] = 1
    written = np.count_nonzero(geometry.full_view(root, 0, context))
    assert written == 2 * layout.layers * layout.kv_heads * context * layout.head_dim
    whole = np.count_nonzero(geometry.full_view(root, 0, context).view(np.uint8))
    assert np.count_nonzero(root) == whole


def test_a_full_view_is_the_layers_one_after_the_other() -> None:
    layout = KVLayout(3, 2, 5, "float16")
    geometry = layout.geometry(9)
    root = np.arange(geometry.nbytes, dtype=np.uint64).astype(np.uint8)
    full = geometry.full_view(root, 2, 4)
    assert full.shape == (2, 3, 2, 4, 5)
    for layer in range(3):
        one = geometry.layer_view(root, layer, 2, 4)
        assert one.shape == (2, 2, 4, 5)
        assert one.tobytes() == full[:, layer].tobytes()


def test_sixteen_tokens_of_one_head_are_one_page() -> None:
    """What the design promises for head_dim 128 in 16 bits."""
    geometry = KVLayout(32, 8, 128, "bfloat16").geometry(4096)
    assert 16 * geometry.token_stride == 4096
    assert geometry.head_stride % 4096 == 0
