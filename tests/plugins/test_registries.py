"""Plugins registered by hand, and registries of something else than backends."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING

import pytest

import kvpool.backends
from kvpool.arena import ArenaBackend, Capability
from kvpool.errors import (
    BrokenPluginError,
    PluginConflictError,
    PluginDisabledError,
    PluginError,
    UnknownPluginError,
)
from kvpool.hookspecs import hookimpl
from kvpool.plugins import PluginKind, PluginRegistry
from tests.support.distributions import install
from tests.support.greeting import Greeting, GreetingSpec
from tests.support.reports import report_of

if TYPE_CHECKING:
    from pathlib import Path

OURS = ("ctypes", "mmap", "numpy")


def by_hand(name: str) -> types.SimpleNamespace:
    """Return an object that implements the hook."""

    @hookimpl
    def kvpool_arena_backend() -> ArenaBackend:
        numpy = kvpool.backends.registry.choose("numpy")
        return ArenaBackend(name, numpy.factory, Capability.NONE, "by hand")

    return types.SimpleNamespace(kvpool_arena_backend=kvpool_arena_backend)


def test_registered_plugin_works_like_an_installed_one(
    registry: PluginRegistry[ArenaBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    registered = registry.register("mine", by_hand("mine"))
    assert registry.choose("mine") is registered
    assert report_of(registry, "mine").distribution == "(this process)"
    monkeypatch.setenv("KVPOOL_DISABLED_BACKENDS", "mine")
    with pytest.raises(PluginDisabledError, match="mine"):
        registry.choose("mine")
    registry.unregister("mine")
    assert registry.names() == OURS


def test_registration_is_refused_without_effect(registry: PluginRegistry[ArenaBackend]) -> None:
    registry.register("mine", by_hand("mine"))
    with pytest.raises(PluginConflictError, match=r"'numpy'.*kvpool"):
        registry.register("numpy", by_hand("numpy"))
    with pytest.raises(PluginConflictError, match=r"'mine'.*this process"):
        registry.register("mine", by_hand("mine"))
    with pytest.raises(BrokenPluginError, match="does not implement"):
        registry.register("other", object())
    assert registry.names() == ("ctypes", "mine", "mmap", "numpy")
    assert registry.choose("numpy").summary != "by hand"
    with pytest.raises(UnknownPluginError, match="numpy"):
        registry.unregister("numpy")


def test_registry_of_another_kind_without_variables(folder: Path) -> None:
    source = """
from kvpool.hookspecs import hookimpl
from tests.support.greeting import Greeting

@hookimpl
def kvpool_greeting():
    return Greeting("hello")
"""
    install(
        folder, "fake-one", {"warm": "fake_one"}, {"fake_one": source}, group="kvpool.greetings"
    )
    registry = PluginRegistry(
        PluginKind(
            "greeting",
            group="kvpool.greetings",
            hook="kvpool_greeting",
            spec=GreetingSpec,
            provides=Greeting,
        )
    )
    assert registry.names() == ("warm",)
    with pytest.raises(PluginError, match="no greeting was named; available: warm"):
        registry.choose()
    assert registry.choose("warm").text == "hello"
