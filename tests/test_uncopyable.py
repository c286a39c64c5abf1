"""What owns memory cannot be copied: a copy would share it, and close it for the original."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from kvpool import CacheKey, KVCacheManager
from kvpool.errors import NotCopyableError
from tests.support.sessions import LAYOUT, key_of, random_tokens, same_bits

HOW: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda original: pickle.loads(pickle.dumps(original)),
    "old pickle": lambda original: pickle.dumps(original, protocol=0),
}


@pytest.mark.parametrize("how", HOW)
def test_pools_managers_entries_and_leases_are_not_copied(backend: str, how: str) -> None:
    with KVCacheManager(1 << 20, backend, LAYOUT, receipts=False) as manager:
        tokens = random_tokens(LAYOUT, 4)
        entry = manager.create_cache_entry(key_of(1), 8)
        entry.extend(*tokens)
        raw = manager.allocate_entry(key_of(2), 64)
        for original in (manager, manager.pool, entry, raw, entry.lease()):
            with pytest.raises(
                NotCopyableError, match="cannot be copied, pickled or sent"
            ) as caught:
                HOW[how](original)
            assert repr(original) in str(caught.value)
        manager.check_integrity()
        assert same_bits(entry.keys(), tokens.keys)


@pytest.mark.parametrize("how", ["copy", "deepcopy", "pickle"])
def test_layouts_and_keys_are(how: str) -> None:
    for original in (LAYOUT, CacheKey("chat", 1)):
        assert HOW[how](original) == original
