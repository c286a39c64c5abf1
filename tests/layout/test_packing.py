"""Packings: the same views, in fewer and fuller pages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kvpool.entry import KVCacheEntry
from kvpool.layout._layout import PACKINGS, EntryGeometry, KVLayout, Packing
from kvpool.pool import open_pool
from tests.support.marks import needs_pages
from tests.support.page_counts import kernel_bytes
from tests.support.sessions import random_tokens, same_bits

PAGE = 4096
packings = pytest.mark.parametrize("packing", PACKINGS)


def layout_of(packing: Packing, dtype: str = "bfloat16") -> KVLayout:
    return KVLayout(layers=3, kv_heads=2, head_dim=20, dtype=dtype, packing=packing)


def addresses(geometry: EntryGeometry) -> Any:
    """Return the offset of every element of an entry, as full_view shows it."""
    item = geometry.layout.dtype.itemsize
    view = geometry.full_view(np.zeros(geometry.nbytes, np.uint8), 0, geometry.max_context_length)
    index = np.indices(view.shape)
    offsets = sum(i * stride for i, stride in zip(index, view.strides, strict=True))
    return np.asarray(offsets) // item


@packings
@pytest.mark.parametrize("alignment", [64, PAGE])
def test_no_two_elements_share_a_place(packing: Packing, alignment: int) -> None:
    geometry = layout_of(packing).geometry(7, alignment)
    places = addresses(geometry).ravel()
    assert len(np.unique(places)) == len(places)
    assert places.max() * 2 < geometry.nbytes


@packings
def test_runs_begin_at_the_alignment_and_hold_all_tokens(packing: Packing) -> None:
    geometry = layout_of(packing).geometry(50, PAGE)
    starts = sorted(
        offset for group in range(geometry.groups) for offset in geometry.stripe_offsets(group)
    )
    assert len(starts) == geometry.groups * geometry.stripes_per_group
    assert all(start % PAGE == 0 for start in starts)
    run = geometry.nbytes // len(starts)
    assert starts == list(range(0, geometry.nbytes, run))
    assert geometry.token_stride * len(starts) == geometry.layout.bytes_per_token
    root = np.arange(geometry.nbytes // 2, dtype=np.uint16).view(np.uint8)
    for layer in range(3):
        view = geometry.layer_view(root, layer, 0, 50)
        first = view.__array_interface__["data"][0] - root.__array_interface__["data"][0]
        offsets = geometry.stripe_offsets(geometry.group(layer))
        assert min(offsets) <= first < min(offsets) + run


@packings
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_views_are_the_same_in_each(packing: Packing, backend: str, dtype: str) -> None:
    layout = layout_of(packing, dtype)
    tokens = random_tokens(layout, 90, 3)
    with open_pool(1 << 22, backend) as pool:
        entry = KVCacheEntry.create(pool, layout, 100, "one")
        entry.extend(tokens.keys[:, :, :70], tokens.values[:, :, :70])
        for layer in (2, 0, 1):
            entry.append(layer, tokens.keys[layer, :, 70:], tokens.values[layer, :, 70:])
        assert same_bits(entry.keys(), tokens.keys)
        assert same_bits(entry.values(), tokens.values)
        for layer in range(3):
            assert same_bits(entry.key(layer), tokens.keys[layer])
            assert same_bits(entry.value(layer), tokens.values[layer])
        child = entry.fork("two")
        child.truncate(33)
        child.extend(tokens.keys[:, :, 50:60], tokens.values[:, :, 50:60])
        assert same_bits(child.keys()[:, :, :33], tokens.keys[:, :, :33])
        assert same_bits(child.values()[:, :, 33:], tokens.values[:, :, 50:60])
        assert same_bits(entry.keys(), tokens.keys)
        pool.check_integrity()


@needs_pages
@pytest.mark.parametrize(("packing", "pages"), [("head", 12), ("layer", 6), ("token", 3)])
def test_fewer_runs_have_fewer_page_tails(packing: Packing, pages: int) -> None:
    """Twenty tokens of 480 bytes: 9,600 bytes are at least three pages."""
    with open_pool(1 << 22, "mmap") as pool:
        entry = KVCacheEntry.create(pool, layout_of(packing), 1000, "one")
        entry.extend(*random_tokens(entry.layout, 20, 1))
        assert entry.committed_bytes == kernel_bytes(pool) == pages * PAGE


def test_packing_is_part_of_the_layout() -> None:
    assert len({layout_of(packing) for packing in PACKINGS}) == 3
    assert [str(layout_of(packing)) for packing in PACKINGS] == [
        "3 x 2 x 20 bfloat16",
        "3 x 2 x 20 bfloat16 by layer",
        "3 x 2 x 20 bfloat16 by token",
    ]
