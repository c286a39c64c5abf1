from __future__ import annotations

import importlib
from typing import Any

import pytest

from tests.support import needs
from tests.support.managers import make_manager, manager
from tests.support.real_model import small_model_directory

__all__ = ["chatting", "make_manager", "manager", "small_model_directory"]


@pytest.fixture(scope="session")
def chatting() -> Any:
    """The module `tests.support.chatting`, which imports torch and transformers."""
    needs.transformers()
    return importlib.import_module("tests.support.chatting")
