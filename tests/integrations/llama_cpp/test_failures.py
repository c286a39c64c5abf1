"""What goes wrong around llama.cpp: versions, interrupts at chosen places, states it refuses."""

from __future__ import annotations

import importlib
import sys
from importlib import metadata
from types import ModuleType
from typing import Any

import pytest

from kvpool import KVCacheEntry, KVCacheManager
from kvpool.tiers import Loaded, TierStore
from tests.integrations.llama_cpp.conftest import MakeModel
from tests.integrations.llama_cpp.test_pooled_llama import TEXT, words

pytestmark = pytest.mark.engines


@pytest.fixture
def package(llama: Any) -> ModuleType:
    assert llama.OPTIONS
    return importlib.import_module("kvpool.integrations._llama_cpp")


@pytest.mark.parametrize("found", ["0.3.35", "0.4.0", "1.0"])
def test_another_version_is_refused(
    package: ModuleType, monkeypatch: pytest.MonkeyPatch, found: str
) -> None:
    monkeypatch.setattr(metadata, "version", lambda _: found)
    with pytest.raises(ImportError, match=f"from 0.3.36 up to 0.4, and {found} is installed"):
        importlib.reload(package)


def test_a_build_without_metadata_is_taken(
    package: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    importlib.reload(package)


def test_without_llama_cpp_the_error_names_the_extra(
    package: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(ImportError, match=r"kvpool\[llama-cpp\]"):
        importlib.reload(package)


def test_blocks_of_one_token(manager: KVCacheManager, make_model: MakeModel, plain: Any) -> None:
    words(make_model(manager, block_tokens=1), TEXT[:40])
    model = make_model(manager, block_tokens=1)
    assert words(model, TEXT[:40]) == words(plain, TEXT[:40])
    assert model.restored_tokens > 0


def test_a_state_that_llama_cpp_refuses_is_computed(
    manager: KVCacheManager, make_model: MakeModel, plain: Any
) -> None:
    words(make_model(manager), TEXT)
    (key,) = manager.session_keys()
    entry = manager.get_cache_entry(key)
    assert isinstance(entry, KVCacheEntry)
    record = entry.key(0, writeable=True)
    record[0, 1, 8 + 8 * 16 :][:64] = -1  # the head of the state of the second block
    del record
    model = make_model(manager)
    assert words(model, TEXT) == words(plain, TEXT)
    assert model.restored_tokens == 16


def test_an_interrupt_before_a_session_is_open_leaves_none(
    manager: KVCacheManager, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(manager)

    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(manager, "open_session", interrupted)
        with pytest.raises(KeyboardInterrupt):
            words(model, TEXT)
    assert len(manager) == 0


def test_an_interrupt_before_the_context_has_the_blocks_keeps_them(
    manager: KVCacheManager,
    make_model: MakeModel,
    plain: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words(make_model(manager), TEXT)
    model = make_model(manager)

    def interrupted(_: int) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(vars(model)["_state"], "cut", interrupted)
        with pytest.raises(KeyboardInterrupt):
            words(model, TEXT)
    assert not any(map(manager.is_open, manager))
    assert words(model, TEXT) == words(plain, TEXT)
    assert model.restored_tokens > 0


class _Waiting(TierStore):
    """A store in which another thread has always just loaded what is asked for first."""

    has_waited = False

    def load(self, *arguments: Any, **options: Any) -> Loaded:
        """Load at the second call."""
        if not self.has_waited:
            self.has_waited = True
            return Loaded(waited=True, reason="waited")
        return super().load(*arguments, **options)


def test_a_model_that_has_waited_for_another_one_loads_after_it(
    make_model: MakeModel, plain: Any
) -> None:
    with _Waiting(["memory:?capacity=8MiB"], chunk_tokens=1) as store:
        for loads in (False, True):
            with KVCacheManager(64 << 20, backend="mmap") as manager:
                store.has_waited = False
                model = make_model(manager, tiers=store)
                plain.reset()
                assert words(model, TEXT) == words(plain, TEXT)
                assert store.has_waited
                assert (model.loaded_tokens > 0) is loads
                model.close()
            assert store.drain(60) == 0


def test_no_tokens_are_no_state(llama: Any, manager: KVCacheManager, plain: Any) -> None:
    cache = llama.LlamaPoolCache(manager)
    cache[()] = plain.save_state()
    assert len(cache) == 0
