"""What a pool asks of its arena: narrow views, room on a disk, forks within limits."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kvpool.layout import KVLayout
from kvpool.pool import ElasticPool, open_pool
from tests.support.marks import elastic

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="says what holds on Linux")


@pytest.mark.parametrize("elastic", [False, True])
@pytest.mark.parametrize("backend", ["numpy", "mmap", "ctypes"])
def test_a_view_leads_to_the_bytes_of_its_block_alone(backend: str, elastic: bool) -> None:
    if elastic and (backend == "numpy" or sys.platform != "linux"):
        pytest.skip("the backend is not elastic here")
    with open_pool(1 << 20, backend, elastic) as pool:
        block, other = pool.allocate(4096), pool.allocate(4096)
        pool.view(other, "uint8", 4096)[:] = 9
        check_narrow(pool.view(block, "float32", 16))


@linux_only
@elastic
def test_a_view_of_a_fork_leads_to_its_own_bytes_alone(backend: str) -> None:
    geometry = KVLayout(1, 1, 16, "float32").geometry(32, 2048)
    with ElasticPool(1 << 20, backend) as pool:
        made = pool.fork(pool.reserve(geometry), 64)
        assert isinstance(made, tuple)
        for _ in range(2):
            check_narrow(pool.view(made[0], "float32", 16))


def check_narrow(view: NDArray[Any]) -> None:
    chain = chain_of(view)
    assert len(chain) > 2
    assert [memory.nbytes for memory in chain[1:]] == [4096] * len(chain[1:])
    for memory in chain:
        assert not np.frombuffer(memory, np.uint8).any()
        leads = chain_of(memoryview(memory)[:16])
        assert all(one.nbytes <= 4096 for one in leads)


def chain_of(view: Any) -> list[Any]:
    """Return an array or memoryview, and all that its `base` and `obj` lead to."""
    chain = []
    while view is not None:
        chain.append(view)
        view = view.obj if isinstance(view, memoryview) else view.base
    return chain


DISK = """
import os, sys
import numpy as np
from kvpool import KVLayout
from kvpool.pool import open_pool
from kvpool.errors import ArenaFullError

elastic = sys.argv[2] == "True"
layout = KVLayout(layers=2, kv_heads=2, head_dim=64, dtype="float32")
with open_pool(8 << 20, "mmap", elastic, path=sys.argv[1] + "/arena") as pool:
    blocks, used, errors = [], 0, 0
    for number in range(64):
        try:
            if elastic and number % 2:
                block = pool.reserve(layout.geometry(64, pool.granule))
                pool.commit(block, None, 0, 16384)
            else:
                block = pool.allocate(65536)
            view = pool.lease(block)
            view[:16384] = number + 1
            blocks.append((number, block))
            used = pool.stats().used
        except ArenaFullError:
            errors += 1
            assert elastic or pool.stats().used == used
            pool.check_integrity()
    assert all((pool.lease(block)[:16384] == number + 1).all() for number, block in blocks)
    first = blocks[0][1]
    del view
    pool.deallocate(first)
    if elastic:
        pool.lease(pool.allocate(65536))[:] = 1
    pool.check_integrity()
    print(errors > 10, len(blocks) > 5)
"""


@linux_only
@pytest.mark.parametrize("elastic", [False, True])
def test_a_full_disk_changes_nothing(tmp_path: Path, elastic: bool) -> None:
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], check=False).returncode:
        pytest.skip("this system has no user namespaces")
    shell = 'mount -t tmpfs -o size=1m none "$1" && exec "$2" -c "$3" "$1" "$4"'
    command = ["sh", "-c", shell, "sh", str(tmp_path), sys.executable, DISK, str(elastic)]
    done = subprocess.run([*unshare, *command], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, ["True", "True"]), done.stderr


@linux_only
def test_forks_of_all_pools_share_the_limit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Beyond the limit there is no fork; why, is logged once by each pool."""
    monkeypatch.setattr("kvpool.fork_limits._max_mappings", lambda: 6)
    layout = KVLayout(layers=1, kv_heads=1, head_dim=64, dtype="float32")
    with ElasticPool(1 << 20, "ctypes") as first, ElasticPool(1 << 20, "ctypes") as second:
        forks: list[object] = []
        for pool in (first, second):
            block = pool.reserve(layout.geometry(64, pool.granule))
            pool.commit(block, 0, 0, 4096)
            with caplog.at_level(logging.WARNING):
                forks.extend(pool.fork(block, 4096) for _ in range(4))
        assert [isinstance(fork, tuple) for fork in forks] == [True] * 3 + [False] * 5
        own, of_all = (record.getMessage() for record in caplog.records)
        assert "the arena may have 3 forks" in own
        assert "3 mappings" in of_all
