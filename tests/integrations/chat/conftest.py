from __future__ import annotations

import importlib
from typing import Any

import pytest

from tests import needs


@pytest.fixture(scope="session")
def chatting() -> Any:
    """The module `tests.integrations.chat.chatting`, which imports torch and transformers."""
    needs.transformers()
    return importlib.import_module("tests.integrations.chat.chatting")
