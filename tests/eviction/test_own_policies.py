"""Policies that are not kvpool's: given as objects, or by the name of an installed plugin."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path

import pytest

from kvpool.errors import UnknownPluginError
from kvpool.eviction.base import EvictionPolicy, EvictionReason
from kvpool.eviction.registry import registry
from kvpool.ledger import LedgerSink, verify
from kvpool.manager import KVCacheManager
from kvpool.testing import PolicyConformance
from tests.support.distributions import install
from tests.support.sessions import LAYOUT, key_of


class FifoPolicy(EvictionPolicy):
    """The session that came first goes first, however much it is used."""

    def __init__(self) -> None:
        self.order: dict[Hashable, int] = {}

    def admit(self, key: Hashable, nbytes: int, /) -> None:
        self.order[key] = nbytes

    def touch(self, key: Hashable, /) -> None:
        assert key in self.order

    def resize(self, key: Hashable, nbytes: int, /) -> None:
        assert key in self.order
        self.order[key] = nbytes

    def remove(self, key: Hashable, /) -> None:
        del self.order[key]

    def victims(self) -> Iterator[Hashable]:
        return iter(self.order)


class LargestFirst(FifoPolicy):
    """The largest session goes first. It keeps no order, so it is too slow for many."""

    def victims(self) -> Iterator[Hashable]:
        return iter(sorted(self.order, key=lambda key: -self.order[key]))


class TestFifo(PolicyConformance):
    def create_policy(self) -> EvictionPolicy:
        return FifoPolicy()


def fill(manager: KVCacheManager, sizes: list[int]) -> None:
    for number, size in enumerate(sizes):
        manager.allocate_entry(key_of(number), size)


def test_a_policy_is_given_as_an_object() -> None:
    with KVCacheManager(1024, "numpy", policy=FifoPolicy()) as manager:
        fill(manager, [256] * 4)
        manager.get_cache_entry(key_of(0))  # which would save it from LRU
        manager.allocate_entry(key_of(4), 512)
        assert manager.session_keys() == [key_of(number) for number in (2, 3, 4)]
        assert manager.get_stats().evictions_by_reason[EvictionReason.POLICY] == 2
        assert manager.get_stats().evictions_by_reason[EvictionReason.LRU] == 0


def test_a_policy_is_told_sizes_and_growth() -> None:
    policy = LargestFirst()
    with KVCacheManager(1 << 16, "numpy", policy=policy) as manager:
        fill(manager, [100, 300, 200])
        assert policy.order == {key_of(0): 100, key_of(1): 300, key_of(2): 200}
        assert manager.evict_lru_entries((1 << 16) - 64) == [key_of(1), key_of(2), key_of(0)]


def test_growing_changes_the_size_that_a_policy_knows() -> None:
    policy = LargestFirst()
    with KVCacheManager(1 << 18, "numpy", LAYOUT, policy=policy) as manager:
        for number in (1, 2):
            manager.get_or_create_cache(key_of(number), 4)
        manager.get_or_create_cache(key_of(1), 400)
        large, small = LAYOUT.geometry(400).nbytes, LAYOUT.geometry(4).nbytes
        assert policy.order == {key_of(1): large, key_of(2): small}


class ChoosyPolicy(FifoPolicy):
    """Refuses some sessions, before or after it has noted them."""

    def __init__(self, *, notes_before: bool) -> None:
        super().__init__()
        self.notes_before = notes_before

    def admit(self, key: Hashable, nbytes: int, /) -> None:
        if key != key_of("refused"):
            super().admit(key, nbytes)
            return
        if self.notes_before:
            super().admit(key, nbytes)
        raise RuntimeError(f"not {key}")


MAKE: dict[str, Callable[[KVCacheManager], object]] = {
    "raw": lambda manager: manager.allocate_entry(key_of("refused"), 1000),
    "tokens": lambda manager: manager.get_or_create_cache(key_of("refused"), 4),
}


@pytest.mark.parametrize("notes_before", [False, True])
@pytest.mark.parametrize("call", MAKE)
def test_a_policy_that_raises_makes_no_entry(
    backend: str, tmp_path: Path, notes_before: bool, call: str
) -> None:
    ledger, policy = tmp_path / "pool.jsonl", ChoosyPolicy(notes_before=notes_before)
    nbytes = LAYOUT.geometry(4).nbytes
    with KVCacheManager(
        4 * nbytes, backend, LAYOUT, policy=policy, receipts=LedgerSink(ledger), elastic=False
    ) as manager:
        manager.create_cache_entry(key_of(1), 4)
        for _ in range(9):  # more than would fit
            with pytest.raises(RuntimeError, match="not chat/refused"):
                MAKE[call](manager)
        manager.check_integrity()
        stats = manager.get_stats()
        assert manager.session_keys() == [key_of(1)]
        assert (stats.used_memory, stats.allocations, stats.evictions) == (nbytes, 1, 0)
        manager.create_cache_entry(key_of(2), 4)
        assert manager.evict_lru_entries(4 * nbytes) == [key_of(1), key_of(2)]
    assert verify(ledger).findings == []


def test_a_clock_that_raises_makes_no_entry() -> None:
    def clock() -> float:
        if broken:
            raise OSError("no time")
        return 1.0

    broken = False
    with KVCacheManager(1024, "numpy", clock=clock) as manager:
        broken = True
        with pytest.raises(OSError, match="no time"):
            manager.allocate_entry(key_of(1), 64)
        broken = False
        assert manager.get_stats().used_memory == 0
        manager.check_integrity()


def test_an_unknown_policy_lists_what_there_is() -> None:
    with pytest.raises(
        UnknownPluginError, match=r"unknown eviction policy 'mru'; available: arc, .*lru"
    ):
        KVCacheManager(1024, "numpy", policy="mru")


# -- plugins -----------------------------------------------------------------------------

MRU_MODULE = """
from kvpool.eviction.base import PolicyFactory
from kvpool.eviction.lru import LruPolicy
from kvpool.hookspecs import hookimpl

class MruPolicy(LruPolicy):
    def victims(self):
        return reversed(self._order)

@hookimpl
def kvpool_eviction_policy():
    return PolicyFactory(create=MruPolicy, summary="the most recently used goes first")
"""

USE_IT = """
from kvpool.cache_key import CacheKey
from kvpool.errors import KVPoolError
from kvpool.manager import KVCacheManager

def survivors(policy):
    with KVCacheManager(256, "numpy", policy=policy) as manager:
        for number in range(5):
            manager.allocate_entry(CacheKey("chat", number), 64)
        return [key.id for key in manager.session_keys()]

print(survivors("mru"), survivors("lru"))
for name in ("filo", "broken"):
    try:
        survivors(name)
    except KVPoolError as error:
        print(type(error).__name__, error)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a distribution that has a working and a broken policy."""
    entries = {"mru": "mru_policy", "broken": "not_there"}
    modules = {"mru_policy": MRU_MODULE}
    install(tmp_path, "kvpool-mru", entries, modules, group="kvpool.policies")
    return tmp_path


def run(script: str, folder: Path, **environment: str) -> str:
    """Run a script in an interpreter that finds what is installed in the folder."""
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_policy_of_another_distribution_is_chosen_by_name(folder: Path) -> None:
    survivors, unknown, broken = run(USE_IT, folder).splitlines()
    assert survivors == "[0, 1, 2, 4] [1, 2, 3, 4]"
    assert unknown == (
        "UnknownPluginError unknown eviction policy 'filo'; available: "
        + ", ".join(sorted([*registry.names(), "broken", "mru"]))
    )
    assert broken.startswith("BrokenPluginError the eviction policy 'broken' of kvpool-mru 1.0")
    assert "not_there" in broken


def test_a_policy_can_be_disabled(folder: Path) -> None:
    script = USE_IT.replace('print(survivors("mru"), survivors("lru"))', "").replace("filo", "mru")
    refused = run(script, folder, KVPOOL_DISABLED_POLICIES="mru").splitlines()[0]
    assert refused.startswith("PluginDisabledError the eviction policy 'mru' of kvpool-mru 1.0")
