"""`register`: known to vLLM by an entry point, and never in its way."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

import pytest

from kvpool.integrations.vllm_plugin import POLICIES, register

FACTORIES = {
    "vllm.v1.kv_offload.tiering.factory": ("SecondaryTierFactory", "register_tier"),
    "vllm.v1.kv_offload.factory": ("OffloadingSpecFactory", "register_spec"),
    "vllm.v1.kv_offload.cpu.policies.factory": ("CachePolicyFactory", "register_cache_policy"),
}


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[str, str]]:
    """What a vLLM that is not there was told."""
    told: dict[str, tuple[str, str]] = {}

    class Factory:
        @staticmethod
        def add(name: str, module: str, kind: str) -> None:
            if name in told:
                raise ValueError(f"{name} is already registered")
            told[name] = (module, kind)

    names = {"vllm"}
    for name in FACTORIES:
        parts = name.split(".")
        names |= {".".join(parts[:count]) for count in range(1, len(parts) + 1)}
    for name in names:
        module = ModuleType(name)
        module.__spec__ = sys.__spec__
        monkeypatch.setitem(sys.modules, name, module)
    for name, (factory, method) in FACTORIES.items():
        setattr(sys.modules[name], factory, type(factory, (), {method: Factory.add}))
    return told


def test_the_entry_point_is_register() -> None:
    (point,) = entry_points(group="vllm.general_plugins", name="kvpool")
    assert point.load() is register


def test_short_names_are_registered(registered: dict[str, tuple[str, str]]) -> None:
    register()
    front = "kvpool.integrations.vllm"
    assert registered["kvpool"] == (front, "KVPoolTier")
    assert registered["KVPoolOffloadingSpec"] == (front, "KVPoolOffloadingSpec")
    assert {name: kind for name, (_, kind) in registered.items() if name in POLICIES} == POLICIES


def test_a_second_call_does_nothing(
    registered: dict[str, tuple[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    register()
    register()
    assert len(registered) == 2 + len(POLICIES)
    assert not caplog.records


@pytest.mark.usefixtures("registered")
def test_another_vllm_is_told_of_and_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise TypeError("two arguments")

    factory: Any = sys.modules["vllm.v1.kv_offload.factory"]
    monkeypatch.setattr(factory.OffloadingSpecFactory, "register_spec", refuse)
    register()
    assert "vLLM does not take 'KVPoolOffloadingSpec' of kvpool: two arguments" in caplog.text
    monkeypatch.delattr(factory, "OffloadingSpecFactory")
    register()
    assert "kvpool is not registered with this version of vLLM" in caplog.text


def test_without_vllm_nothing_happens(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("kvpool.integrations.vllm_plugin.find_spec", lambda _: None)
    register()
    assert not caplog.records
