"""Opening elastic pools: what is chosen, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from kvpool.errors import (
    InvalidLayoutError,
    InvalidSizeError,
    UnsupportedError,
)
from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager
from kvpool.pool._opening import ElasticPool, open_pool
from kvpool.pool._pool import MemoryPool
from tests.support.elastic_sessions import (
    PAGE,
    elastic_manager,
    new_session,
)
from tests.support.marks import elastic, needs_pages

pytestmark = needs_pages


def test_without_elastic_arenas_there_is_no_elastic_pool() -> None:
    with pytest.raises(UnsupportedError, match="numpy backend has no elastic arenas"):
        ElasticPool(1 << 20, "numpy")
    with pytest.raises(UnsupportedError, match="numpy"):
        KVCacheManager(1 << 20, "numpy", elastic=True)
    with open_pool(1 << 20, "numpy") as pool:
        assert type(pool) is MemoryPool


@elastic
def test_open_pool_is_elastic_where_it_can_be(backend: str) -> None:
    for wanted, expected in ((None, ElasticPool), (True, ElasticPool), (False, MemoryPool)):
        with open_pool(1 << 20, backend, wanted) as pool:
            assert type(pool) is expected


def test_options_that_commit_at_once_have_no_elastic_pool() -> None:
    with open_pool(1 << 20, "ctypes", prefault=True) as pool:
        assert type(pool) is MemoryPool
    with pytest.raises(UnsupportedError, match="prefault"):
        ElasticPool(1 << 20, "ctypes", prefault=True)


@elastic
@pytest.mark.parametrize(
    ("capacity", "space", "message"),
    [
        (PAGE - 1, None, f"{PAGE - 1} bytes is less than a page, {PAGE}"),
        (8 * PAGE, 4 * PAGE, f"address_space {4 * PAGE} is less than the capacity {8 * PAGE}"),
        ("many", None, "capacity:? .*'many'"),
        (PAGE, "much", "address_space:? .*'much'"),
        (0, None, "0"),
    ],
)
def test_bad_sizes(backend: str, capacity: Any, space: Any, message: str) -> None:
    with pytest.raises(InvalidSizeError, match=message):
        ElasticPool(capacity, backend, address_space=space)


@elastic
def test_capacity_is_whole_pages(backend: str) -> None:
    with ElasticPool(3 * PAGE - 1, backend, address_space=64 * PAGE) as pool:
        assert pool.capacity == pool.stats().capacity == 2 * PAGE
        assert pool.stats().address_space == 64 * PAGE
        assert pool.granule == PAGE


def test_a_packing_that_nobody_knows() -> None:
    packing: Any = "heap"
    with pytest.raises(InvalidLayoutError, match="'heap'; use head, layer or token"):
        KVLayout(1, 1, 64, packing=packing)


@elastic
def test_figures_of_the_kernel(backend: str) -> None:
    with elastic_manager(1000, backend) as manager:
        new_session(manager, 1, 10)
        assert manager.pool.committed_bytes() == manager.get_stats().used_memory
