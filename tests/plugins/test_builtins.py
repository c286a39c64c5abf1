"""The plugins that come with kvpool, with and without metadata of an installation."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import kvpool.backends
import kvpool.eviction.registry
import kvpool.receipts
import kvpool.tiers
from kvpool.__about__ import __version__
from kvpool.errors import PluginConflictError
from kvpool.plugins import PluginRegistry, PluginState
from tests.support.distributions import backend_source, install
from tests.support.docs_pages import ROOT
from tests.support.reports import report_of

if TYPE_CHECKING:
    from kvpool.arena import ArenaBackend

REGISTRIES: tuple[PluginRegistry[Any], ...] = (
    kvpool.backends.registry,
    kvpool.eviction.registry.registry,
    kvpool.receipts.registry,
    kvpool.tiers.codec_registry,
    kvpool.tiers.registry,
)


def test_the_distribution_declares_the_same_plugins() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    of_kvpool = {
        name: every for name, every in project["entry-points"].items() if "kvpool." in name
    }
    assert of_kvpool == {
        registry.kind.group: dict(registry.kind.builtins) for registry in REGISTRIES
    }


def test_a_copy_of_kvpool_in_another_distribution_is_the_same_plugin(
    folder: Path, registry: PluginRegistry[ArenaBackend]
) -> None:
    install(folder, "vendors-kvpool", {"numpy": "kvpool_numpy"})
    report = report_of(registry, "numpy")
    assert (report.distribution, report.version) == ("kvpool", __version__)
    assert report.state is PluginState.OK


def test_metadata_of_an_older_kvpool_changes_nothing(
    folder: Path, registry: PluginRegistry[ArenaBackend]
) -> None:
    install(folder, "kvpool", {"numpy": "kvpool.backends.old_numpy"}, version="0.0.9")
    report = report_of(registry, "numpy")
    assert (report.distribution, report.version) == ("kvpool", __version__)
    assert registry.names() == ("ctypes", "mmap", "numpy")
    assert registry.choose().name == registry.kind.default


def test_another_plugin_of_the_same_name_is_still_a_conflict(
    folder: Path, registry: PluginRegistry[ArenaBackend]
) -> None:
    install(folder, "fake-one", {"numpy": "fake_one"}, {"fake_one": backend_source("numpy")})
    with pytest.raises(PluginConflictError, match=r"kvpool .*fake-one"):
        registry.choose("numpy")


WITHOUT_METADATA = """
import importlib.metadata
import sys

for group in ("kvpool.backends", "kvpool.policies", "kvpool.sinks", "kvpool.tiers"):
    assert not importlib.metadata.entry_points(group=group), group

import kvpool
from kvpool import tiers
from kvpool.backends import registry

assert not [name for name in sys.modules if name.startswith("kvpool_")]
assert registry.names() == ("ctypes", "mmap", "numpy")
layout = kvpool.KVLayout(1, 1, 8)
for backend in registry.names():
    with kvpool.KVCacheManager(1 << 20, backend, layout, policy="lru", receipts="memory") as pool:
        pool.create_cache_entry(kvpool.CacheKey("chat", 1), 16)
    assert [report.state for report in registry.reports() if report.name == backend] == ["ok"]
tiers.open_tier("memory:").close()
print(kvpool.__file__)
"""


def without_kvpool(folder: Path) -> None:
    """Fill a folder with what is installed here, except for kvpool and its metadata."""
    folder.mkdir()
    for site in filter(lambda path: path.endswith("-packages"), sys.path):
        for found in Path(site).iterdir():
            if "kvpool" not in found.name and not (folder / found.name).exists():
                (folder / found.name).symlink_to(found)


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege here")
def test_builtins_are_there_without_metadata(tmp_path: Path) -> None:
    """As in a frozen application, in a vendored copy, or with a source tree on PYTHONPATH."""
    tree, others = tmp_path / "tree", tmp_path / "others"
    for name in ("kvpool", *kvpool.backends.registry.kind.builtins.values()):
        source = Path(str(importlib.import_module(name).__file__)).parent
        shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    without_kvpool(others)
    done = subprocess.run(
        [sys.executable, "-S", "-c", WITHOUT_METADATA],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tree, others)))},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert Path(done.stdout.strip()).is_relative_to(tree)
