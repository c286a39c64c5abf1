"""Tensors over an entry: zero-copy, and leases like any other view."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager
from tests.support import needs
from tests.support.sessions import LAYOUT, key_of, random_tokens, same_bits

pytestmark = pytest.mark.integration

CONTEXT = 8
NBYTES = LAYOUT.geometry(CONTEXT).nbytes


@pytest.fixture
def torch() -> Any:
    return needs.torch()


@pytest.fixture
def manager(backend: str) -> Iterator[KVCacheManager]:
    with KVCacheManager(2 * NBYTES, backend, LAYOUT, elastic=False) as manager:
        yield manager
        manager.check_integrity()


def read_only(torch: Any, view: Any) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writ", UserWarning)
        return torch.from_numpy(view)


TENSORS: dict[str, Callable[[Any, Any], Any]] = {
    "from_numpy": lambda torch, view: torch.from_numpy(view),
    "from_numpy, read-only": lambda torch, view: read_only(torch, view[...].view()),
    "as_tensor": lambda torch, view: torch.as_tensor(view),
    "from_dlpack": lambda torch, view: torch.from_dlpack(view),
    "a view of a tensor": lambda torch, view: torch.from_numpy(view).transpose(0, 1)[1:, :, ::2],
    "another dtype": lambda torch, view: torch.from_numpy(view).view(torch.int32)[0],
    "an array of a tensor": lambda torch, view: torch.from_numpy(view)[1].numpy(),
    "storage": lambda torch, view: torch.from_numpy(view).untyped_storage(),
}


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_is_a_lease(torch: Any, manager: KVCacheManager, name: str) -> None:
    tokens = random_tokens(LAYOUT, CONTEXT)
    entry = manager.create_cache_entry(key_of(0), CONTEXT)
    entry.extend(*tokens)
    tensor = TENSORS[name](torch, entry.key(1, writeable=name != "from_numpy, read-only"))
    for number in range(1, 9):
        manager.create_cache_entry(key_of(number), CONTEXT).data()[:] = number
    assert key_of(0) in manager
    assert same_bits(entry.key(1), tokens.keys[1])
    manager.remove_cache_entry(key_of(0))
    assert manager.get_stats().parting_entries == 1
    del tensor
    assert manager.get_stats().parting_entries == 0


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_tensors_share_the_bytes_of_the_entry(torch: Any, backend: str, dtype: str) -> None:
    layout = KVLayout(2, 2, 16, dtype)
    with KVCacheManager(1 << 16, backend, layout, elastic=False) as manager:
        entry = manager.create_cache_entry(key_of(0), CONTEXT)
        tokens = random_tokens(layout, CONTEXT)
        entry.extend(*tokens)
        view = entry.value(1, writeable=True)
        # NumPy has no bfloat16 of its own, so torch takes the bits and names them.
        tensor = torch.from_numpy(view.view(np.int16) if dtype == "bfloat16" else view)
        tensor = tensor.view(getattr(torch, dtype))
        assert tensor.data_ptr() == view.ctypes.data
        assert tuple(tensor.shape) == view.shape
        assert tensor[1].is_contiguous()
        assert tensor.dtype == getattr(torch, dtype)
        tensor[:, 3] = 1
        tokens.values[1, :, 3] = 1
        assert same_bits(entry.values(), tokens.values)


def test_tokens_may_come_as_tensors(torch: Any, manager: KVCacheManager) -> None:
    tokens = random_tokens(LAYOUT, 5)
    entry = manager.create_cache_entry(key_of(0), CONTEXT)
    entry.extend(*(torch.from_numpy(array) for array in tokens))
    assert same_bits(entry.keys(), tokens.keys)
    assert same_bits(entry.values(), tokens.values)


def test_attention_reads_the_cache_in_place(torch: Any, manager: KVCacheManager) -> None:
    rng = np.random.default_rng(1)
    query, keys, values = (
        rng.standard_normal((3, n, 5), np.float32) for n in (1, CONTEXT, CONTEXT)
    )
    entry = manager.create_cache_entry(key_of(0), CONTEXT)
    for layer in range(2):
        entry.append(layer, keys, values)
    attend = torch.nn.functional.scaled_dot_product_attention
    cached = [torch.from_numpy(view(1, writeable=True)) for view in (entry.key, entry.value)]
    plain = [torch.from_numpy(array) for array in (keys, values)]
    assert torch.equal(
        attend(torch.from_numpy(query), *cached), attend(torch.from_numpy(query), *plain)
    )
