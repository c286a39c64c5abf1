from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kvpool import KVCacheManager
from tests.support import needs


@pytest.fixture(scope="session")
def llama() -> Any:
    """The module `tests.support.llama`, which imports llama_cpp."""
    needs.llama_cpp()
    return importlib.import_module("tests.support.llama")


@pytest.fixture(scope="session")
def model_files(llama: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models of one shape, with other weights."""
    folder = tmp_path_factory.mktemp("models")
    return [llama.write_model(folder / f"tiny-{seed}.gguf", seed) for seed in range(2)]


@pytest.fixture
def manager() -> Iterator[KVCacheManager]:
    with KVCacheManager(64 << 20, backend="mmap") as one:
        yield one
        one.check_integrity()


@pytest.fixture
def plain(llama: Any, model_files: list[Path]) -> Iterator[Any]:
    """A model without a cache."""
    one = llama.Llama(str(model_files[0]), **llama.OPTIONS)
    yield one
    one.close()


MakeModel = Callable[..., Any]


@pytest.fixture
def make_model(llama: Any, model_files: list[Path]) -> Iterator[MakeModel]:
    """Makes a `PooledLlama`; `number` is that of the file."""
    made: list[Any] = []

    def make(manager: KVCacheManager, number: int = 0, **options: Any) -> Any:
        chosen = llama.OPTIONS | {"block_tokens": 16} | options
        made.append(llama.PooledLlama(str(model_files[number]), manager=manager, **chosen))
        return made[-1]

    yield make
    for one in made:
        one.close()
