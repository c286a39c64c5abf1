from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kvpool.integrations import vllm_plugin
from tests.integrations.conftest import small_model_directory
from tests.support import needs

__all__ = ["MakeOffloading", "make", "parts", "small_model_directory"]

MakeOffloading = Callable[..., Any]


@pytest.fixture(scope="session")
def parts() -> Iterator[Any]:
    """The module `tests.support.vllm_parts`, which imports vllm; at the end no file is left."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # vllm and torch warn of themselves
        needs.vllm()
        vllm_plugin.register()
        module = importlib.import_module("tests.support.vllm_parts")
    yield module
    assert module.files_left() == []


@pytest.fixture
def make(parts: Any) -> Iterator[MakeOffloading]:
    """Makes an `Offloading`; at its end no file and no pointer is left."""
    made: list[Any] = []

    def make_one(*secondary: dict[str, Any], **options: Any) -> Any:
        made.append(parts.Offloading(*secondary, **options))
        return made[-1]

    yield make_one
    for one in made:
        one.close()
        assert not one.path.exists()
