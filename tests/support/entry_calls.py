"""What tests of refused calls of an entry share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kvpool.entry import KVCacheEntry
from kvpool.errors import (
    EntryError,
)
from tests.support.sessions import LAYOUT

__all__ = ["GOOD", "Call", "array", "check_refused", "content"]

Call = Callable[[KVCacheEntry], object]


def content(entry: KVCacheEntry) -> tuple[object, ...]:
    shapes = [entry.key(layer).shape for layer in range(LAYOUT.layers)]
    return entry.token_count, shapes, entry.data().tobytes(), entry.block


def check_refused(entry: KVCacheEntry, call: Call, error: type[Exception], text: str) -> None:
    before = content(entry)
    used = entry.last_accessed, entry.last_use
    with pytest.raises(error, match=text) as caught:
        call(entry)
    assert "chat/42" in str(caught.value)
    assert isinstance(caught.value, EntryError)
    assert (entry.last_accessed, entry.last_use) == used
    assert content(entry) == before


def array(*shape: int, dtype: Any = "float32") -> Any:
    return np.ones(shape, dtype)


GOOD = array(3, 2, 5)
