"""`kvpool top` beside a real server: each metric that it shows is there."""

from __future__ import annotations

import importlib

import pytest

from kvpool.cli._top.view import NAMES
from kvpool.manager import KVCacheManager
from tests.support import needs
from tests.support.managers import make_manager, manager
from tests.support.prometheus import families
from tests.support.served import serving

__all__ = ["make_manager", "manager"]

pytestmark = pytest.mark.transformers


def test_a_server_has_all_that_is_shown(manager: KVCacheManager) -> None:
    needs.transformers()
    lab = importlib.import_module("tests.support.engines")
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
    with lab.make_engine(manager) as engine, serving(engine, manager) as served:
        served.post("/v1/chat/completions", body)
        found = families(served.get("/metrics").content.decode())
    names = {sample.name for metric in found.values() for sample in metric.samples}
    assert set(NAMES) <= names
