"""How long the way of an append is: in calls and in files, which a reader has to follow."""

from __future__ import annotations

import numpy as np
import pytest

from kvpool.entry import KVCacheEntry
from kvpool.layout import KVLayout
from kvpool.pool import open_pool
from tests.support.call_counts import calls_of

LAYOUT = KVLayout(layers=2, kv_heads=2, head_dim=64, dtype="float16")


def files(calls: list[tuple[str, str]]) -> set[str]:
    return {file for file, _ in calls}


@pytest.mark.parametrize(
    ("backend", "most_calls", "most_files"), [("numpy", 13, 6), ("mmap", 15, 7)]
)
def test_an_append_into_a_page_that_is_there(
    backend: str, most_calls: int, most_files: int
) -> None:
    with open_pool(1 << 20, backend) as pool:
        entry = KVCacheEntry.create(pool, LAYOUT, 256, "chat/1")
        one, all_layers = np.ones((2, 1, 64), "float16"), np.ones((2, 2, 1, 64), "float16")
        entry.extend(all_layers, all_layers)
        calls = calls_of(lambda: entry.append(0, one, one))
        assert len(calls) <= most_calls, calls
        assert len(files(calls)) <= most_files, calls
        entry.append(1, one, one)
        assert len(calls_of(lambda: entry.extend(all_layers, all_layers))) <= most_calls
        assert len(calls_of(lambda: entry.key(0))) <= 11
