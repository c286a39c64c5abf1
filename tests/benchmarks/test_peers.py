"""Peers are loaded without what they ask for, and leave nothing behind."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import prefix
from benchmarks.harness import Report
from benchmarks.peers import Peer, PeerUnavailableError

PEER = Peer(
    ("scratchpeer==1.0",),
    roots=("scratchpeer", "scratchtorch"),
    keep=("scratchpeer.core.tree", "scratchpeer.core.params"),
)

TREE = """\
import scratchtorch
from scratchpeer.core.params import SIZE
from scratchpeer.gpu.kernels import launch
from scratchpeer.registry import register


@register
def double(value: scratchtorch.Tensor) -> int:
    return value * SIZE
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where peers are looked for; none is there, and none can be downloaded."""
    monkeypatch.setenv("KVPOOL_BENCH_PEERS", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return tmp_path


def write(cache: Path, tree: str) -> None:
    directory = cache / "scratchpeer-1.0" / "scratchpeer" / "core"
    directory.mkdir(parents=True)
    (directory / "tree.py").write_text(tree, encoding="utf-8")
    (directory / "params.py").write_text("SIZE = 2\n", encoding="utf-8")


def test_kept_modules_are_loaded_and_all_others_stood_in_for(cache: Path) -> None:
    write(cache, TREE)
    (tree,) = PEER.modules("scratchpeer.core.tree")
    assert tree.double(21) == 42
    assert tree.launch.anything is tree.launch


def test_nothing_of_a_peer_stays_among_the_modules(cache: Path) -> None:
    write(cache, TREE)
    path, finders = list(sys.path), list(sys.meta_path)
    PEER.modules("scratchpeer.core.tree", "scratchpeer.core.params")
    assert not [name for name in sys.modules if name.startswith("scratch")]
    assert (sys.path, sys.meta_path) == (path, finders)


def test_a_peer_that_does_not_load(cache: Path) -> None:
    write(cache, "from scratchpeer.core.params import GONE\n")
    with pytest.raises(PeerUnavailableError, match=r"scratchpeer==1\.0 does not load: .*GONE"):
        PEER.modules("scratchpeer.core.tree")


def test_a_peer_that_is_not_to_be_downloaded(cache: Path) -> None:
    with pytest.raises(PeerUnavailableError, match=r"scratchpeer==1\.0 is not here"):
        PEER.modules("scratchpeer.core.tree", fetch=False)
    assert not list(cache.iterdir())


def test_a_peer_that_cannot_be_downloaded(cache: Path) -> None:
    with pytest.raises(PeerUnavailableError, match=r"scratchpeer==1\.0: "):
        PEER.modules("scratchpeer.core.tree")
    assert not list(cache.iterdir())


@pytest.mark.usefixtures("cache")
def test_prefixes_are_measured_without_peers() -> None:
    report = Report("prefixes")
    assert prefix.peers(report, fetch=False) == {}
    assert report.versions == {}
    notes = "\n".join(report.notes)
    assert all(f"without {name}" in notes for name in (prefix.SGLANG, prefix.VLLM, "nano-vllm"))
