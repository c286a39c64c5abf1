"""Discovery and choice, with real distributions on the path."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

import kvpool
import kvpool.backends
from kvpool.arena import ArenaBackend, Capability
from kvpool.errors import UnknownPluginError
from kvpool.plugins import PluginRegistry, PluginReport, PluginState
from tests.support.distributions import backend_source, install
from tests.support.reports import report_of

if TYPE_CHECKING:
    from pathlib import Path


DEFAULT = kvpool.backends.registry.kind.default

# -- choice ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("folder")
def test_the_default_shares_pages_if_the_system_can() -> None:
    assert ("mmap" if sys.platform == "linux" else "numpy") == DEFAULT
    with kvpool.KVCacheManager(1 << 20, layout=kvpool.KVLayout(1, 1, 8)) as manager:
        manager.create_cache_entry(kvpool.CacheKey("chat", 1), 4096).fork("2")
        stats = manager.get_stats()
    assert (stats.forks, stats.copied_forks) == ((1, 0) if DEFAULT == "mmap" else (0, 1))


def test_argument_wins_over_environment_wins_over_default(
    registry: PluginRegistry[ArenaBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert registry.choose().name == DEFAULT
    monkeypatch.setenv("KVPOOL_BACKEND", " mmap ")
    assert registry.choose().name == "mmap"
    assert registry.choose("ctypes").name == "ctypes"
    monkeypatch.setenv("KVPOOL_BACKEND", "")
    assert registry.choose().name == DEFAULT


def test_create_arena_chooses_and_passes_options(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kvpool.backends.create_arena(100).info.backend == DEFAULT
    monkeypatch.setenv("KVPOOL_BACKEND", "mmap")
    assert kvpool.backends.create_arena(100).info.backend == "mmap"
    arena = kvpool.backends.create_arena(100, "mmap", path=folder / "arena")
    assert Capability.PERSISTENT in arena.info.capabilities


def test_unknown_name_lists_what_there_is(
    registry: PluginRegistry[ArenaBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnknownPluginError, match="'nmupy'; available: ctypes, mmap, numpy"):
        registry.choose("nmupy")
    monkeypatch.setenv("KVPOOL_BACKEND", "cuda")
    with pytest.raises(LookupError, match=r"'cuda' \(chosen by KVPOOL_BACKEND\)"):
        registry.choose()


def test_plugin_of_another_distribution(
    folder: Path, registry: PluginRegistry[ArenaBackend]
) -> None:
    install(folder, "fake-one", {"extra": "fake_one"}, {"fake_one": backend_source("extra")})
    assert registry.names() == ("ctypes", "extra", "mmap", "numpy")
    assert registry.choose("extra") is registry.choose("extra")
    assert report_of(registry, "extra") == PluginReport(
        "extra", "fake-one", "1.0", PluginState.OK, plugin=registry.choose("extra")
    )


OBJECT = """
import types
import kvpool_numpy

plugin = types.SimpleNamespace(kvpool_arena_backend=kvpool_numpy.kvpool_arena_backend)
"""


def test_entry_point_can_name_an_object(
    folder: Path, registry: PluginRegistry[ArenaBackend]
) -> None:
    install(folder, "fake-one", {"extra": "fake_one:plugin"}, {"fake_one": OBJECT})
    assert registry.choose("extra").name == "numpy"


# -- laziness ----------------------------------------------------------------------------------


def test_core_imports_no_backend() -> None:
    code = "import sys, kvpool.backends; print([m for m in sys.modules if m.startswith('kvpool_')])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_only_what_is_chosen_is_imported(
    folder: Path, registry: PluginRegistry[ArenaBackend]
) -> None:
    install(folder, "fake-one", {"extra": "fake_one"}, {"fake_one": "raise SystemExit(3)"})
    assert registry.choose("numpy").name == "numpy"
    assert "fake_one" not in sys.modules
    assert "extra" in registry.names()


def test_hook_is_called_once_by_many_threads(
    folder: Path, registry: PluginRegistry[ArenaBackend]
) -> None:
    working = backend_source("extra").replace("    return", "    calls.append(1)\n    return")
    slow = (
        "import time\ntime.sleep(0.1)\ncalls = []\n"  # all threads get here before one is through
    )
    install(folder, "fake-one", {"extra": "fake_one"}, {"fake_one": slow + working})
    start = threading.Barrier(8)

    def choose(_: int) -> ArenaBackend:
        start.wait()
        return registry.choose("extra")

    with ThreadPoolExecutor(8) as threads:
        chosen = list(threads.map(choose, range(8)))
    assert all(backend is chosen[0] for backend in chosen)
    assert sys.modules["fake_one"].calls == [1]


CHOOSES_AT_IMPORT = """
import threading
import kvpool.backends

thread = threading.Thread(target=kvpool.backends.registry.choose, args=("numpy",), daemon=True)
thread.start()
thread.join(60)
assert not thread.is_alive(), "the registry waits for this import"
"""


def test_import_may_wait_for_a_choice(
    folder: Path, registry: PluginRegistry[ArenaBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kvpool.backends, "registry", registry)
    source = CHOOSES_AT_IMPORT + backend_source("extra")
    install(folder, "fake-one", {"extra": "fake_one"}, {"fake_one": source})
    assert registry.choose("extra").name == "extra"
