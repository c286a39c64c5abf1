"""The options of the ctypes backend: what each does, and how each is refused."""

from __future__ import annotations

import contextlib
import json
import mmap
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvpool.arena import Arena, Capability
from kvpool.backends import create_arena, registry
from kvpool.errors import ArenaError, InvalidOptionError
from kvpool.testing import pages_present
from tests.support.process_usage import assert_nothing_is_left

if sys.platform == "linux":
    from kvpool_ctypes.system import nodes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the backend is for Linux")

PAGE = mmap.PAGESIZE
HUGE = 2 << 20


# -- what the options do -------------------------------------------------------------------


def test_capabilities_are_those_of_the_options() -> None:
    with contextlib.closing(create_arena(PAGE, "ctypes")) as arena:
        assert arena.info.capabilities == Capability.ELASTIC | Capability.FORK
        assert arena.info.fork_limit > 0
    with contextlib.closing(create_arena(PAGE, "ctypes", mlock=True, prefault=True)) as arena:
        assert arena.info.capabilities == (
            Capability.ELASTIC | Capability.LOCKED | Capability.PREFAULT
        )


@pytest.mark.parametrize("prefault", [False, True])
def test_prefault_commits_all_pages(prefault: bool) -> None:
    with contextlib.closing(create_arena(64 * PAGE, "ctypes", prefault=prefault)) as arena:
        address = np.frombuffer(arena.buffer, np.uint8).ctypes.data
        assert pages_present(address, 64 * PAGE) == (64 if prefault else 0)


def test_mlock_locks_pages_as_they_come() -> None:
    with contextlib.closing(create_arena(64 * PAGE, "ctypes", mlock=True)) as arena:
        assert locked_kib() == 0
        np.frombuffer(arena.buffer, np.uint8)[: 16 * PAGE] = 1
        assert locked_kib() == 16 * PAGE >> 10
        arena.decommit(0, 8 * PAGE)
        assert locked_kib() == 8 * PAGE >> 10


def test_mlock_with_prefault_locks_all_pages() -> None:
    with contextlib.closing(create_arena(64 * PAGE, "ctypes", mlock=True, prefault=True)):
        assert locked_kib() == 64 * PAGE >> 10


def locked_kib() -> int:
    """Return the locked KiB of the arena that is mapped."""
    smaps = Path("/proc/self/smaps").read_text(encoding="utf-8")
    (arena,) = re.findall(r"memfd:kvpool.*?^Locked:\s+(\d+) kB", smaps, re.DOTALL | re.MULTILINE)
    return int(arena)


def test_numa_node_binds_the_pages() -> None:
    if Capability.NUMA not in registry.choose("ctypes").capabilities:
        pytest.skip("this system has no NUMA nodes")
    node = nodes()[-1]
    with contextlib.closing(create_arena(4 * PAGE, "ctypes", numa_node=node)) as arena:
        np.frombuffer(arena.buffer, np.uint8)[:] = 1
        numa_maps = Path("/proc/self/numa_maps").read_text(encoding="utf-8").splitlines()
        (line,) = (line for line in numa_maps if "memfd:kvpool" in line)
        assert f" bind:{node} " in line
        assert f" N{node}=4 " in line


# -- refusals ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"huge_pages": "1GiB"}, "huge_pages.*'none', 'transparent', 'explicit'.*'1GiB'"),
        ({"huge_pages": True}, "huge_pages.*True"),
        ({"mlock": "yes"}, "mlock.*'yes'"),
        ({"prefault": 1}, "prefault.*1"),
        ({"numa_node": 4000}, r"numa_node.*\(\d.*\).*4000"),
        ({"numa_node": -1}, r"numa_node.*-1"),
        ({"numa_node": True}, r"numa_node.*True"),
        ({"numa_node": "0"}, r"numa_node.*'0'"),
        ({"path": "/tmp/x"}, r"path.*/tmp/x.*huge_pages, mlock, numa_node, prefault"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        create_arena(4096, "ctypes", **options)
    assert_nothing_is_left()


def test_prefault_of_more_than_there_is() -> None:
    with pytest.raises(ArenaError, match=r"prefault=True: ENOMEM: \d+ bytes.*\d+ are available"):
        create_arena(1 << 45, "ctypes", prefault=True)
    assert_nothing_is_left()


def test_size_that_cannot_be_mapped() -> None:
    with pytest.raises(ArenaError, match=r"size=1125899906842624: ENOMEM") as caught:
        create_arena(1 << 50, "ctypes")
    assert isinstance(caught.value.__cause__, OSError)
    assert_nothing_is_left()


LOCK_BEYOND_THE_LIMIT = """
import json, os, resource
from pathlib import Path
from kvpool.backends import create_arena
from kvpool.errors import ArenaError
from tests.support.process_usage import mapped, open_files

create_arena(4096, "ctypes").close()
resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
if os.geteuid() == 0:
    os.setuid(65534)  # root may lock as much as it likes
try:
    create_arena(1 << 20, "ctypes", mlock=True)
except ArenaError as error:
    print(json.dumps([str(error), mapped("memfd:kvpool"), open_files("memfd:kvpool")]))
"""


def test_mlock_beyond_the_limit() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOCK_BEYOND_THE_LIMIT],
        cwd=Path(__file__).parents[2],
        check=True,
        capture_output=True,
        text=True,
    )
    message, left_mapped, left_open = json.loads(done.stdout)
    assert re.search(r"mlock=True: (ENOMEM|EPERM|EAGAIN): ", message)
    assert "RLIMIT_MEMLOCK allows 65536 bytes and 1048576 are needed" in message
    assert left_mapped == left_open == []


# -- huge pages ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["transparent", "explicit"])
def test_huge_pages_are_there_or_refused_with_advice(kind: str) -> None:
    try:
        arena = create_arena(3 * HUGE + 5, "ctypes", huge_pages=kind)
    except ArenaError as error:
        message = str(error)
    else:
        with contextlib.closing(arena):
            check_huge(arena)
        return
    reason = "shmem_enabled" if kind == "transparent" else "ENOMEM: 4 pages of 2097152 bytes"
    for part in (f"huge_pages={kind!r}", reason, "huge_pages='none'"):
        assert part in message
    assert_nothing_is_left()


def check_huge(arena: Arena) -> None:
    view = np.frombuffer(arena.buffer, np.uint8)
    assert view.ctypes.data % HUGE == 0
    assert arena.info.size == view.nbytes == 3 * HUGE + 5
    assert arena.info.page_size == arena.info.alignment == HUGE
    assert Capability.HUGE_PAGES | Capability.ELASTIC in arena.info.capabilities
    view[:] = 1
    arena.decommit(HUGE, HUGE)
    assert not view[HUGE : 2 * HUGE].any()
    assert view[:HUGE].all()
    assert view[2 * HUGE :].all()
