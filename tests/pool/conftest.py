"""A full pool of each backend."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kvpool.pool import MemoryBlock, MemoryPool

SIZE = 1024


@pytest.fixture
def pool(backend: str) -> Iterator[MemoryPool]:
    with MemoryPool(8 * SIZE, backend) as pool:
        yield pool


@pytest.fixture
def blocks(pool: MemoryPool) -> list[MemoryBlock]:
    """Eight blocks that fill the pool, in address order."""
    return [pool.allocate(SIZE) for _ in range(8)]
