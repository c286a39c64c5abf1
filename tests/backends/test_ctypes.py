"""The ctypes backend: the suite with each of its options, and what outlives an arena."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import mmap
import subprocess
import sys
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pytest

from kvpool.arena import Arena, Capability
from kvpool.backends import create_arena, registry
from kvpool.testing import ArenaConformance
from tests.support.process_usage import assert_nothing_is_left, mapped

if TYPE_CHECKING:
    from collections.abc import Mapping

if sys.platform == "linux":
    from kvpool_ctypes.system import lock_limit, nodes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the backend is for Linux")

PAGE = mmap.PAGESIZE
HUGE = 2 << 20


class TestCtypesArena(ArenaConformance):
    backend = "ctypes"


class TestCtypesArenaPrefaulted(ArenaConformance):
    backend = "ctypes"
    options: ClassVar[Mapping[str, object]] = {"prefault": True}


class TestCtypesArenaLocked(ArenaConformance):
    backend = "ctypes"
    options: ClassVar[Mapping[str, object]] = {"mlock": True}

    @pytest.fixture(autouse=True)
    def _limit(self) -> None:
        if (limit := lock_limit()) < 4 << 20:
            pytest.skip(f"RLIMIT_MEMLOCK allows {limit} bytes, the suite locks 4 MiB at once")


class TestCtypesArenaOnANode(ArenaConformance):
    backend = "ctypes"

    @pytest.fixture(autouse=True)
    def _node(self) -> None:
        if Capability.NUMA not in registry.choose("ctypes").capabilities:
            pytest.skip("this system has no NUMA nodes")
        self.node = nodes()[-1]

    def create_arena(self, size: int, **options: object) -> Arena:
        return super().create_arena(size, **{"numa_node": self.node, **options})


# -- the end -------------------------------------------------------------------------------


def test_memory_is_unmapped_with_the_last_view() -> None:
    arena = create_arena(64 * PAGE, "ctypes")
    buffer = arena.buffer
    views = [np.frombuffer(buffer, np.uint8)[n::7].view() for n in range(3)]
    arena.close()
    del arena, buffer
    while views:
        assert len(mapped("memfd:kvpool")) == 1
        views.pop()[:] = 1
    assert_nothing_is_left()


def test_no_ctypes_type_is_made_per_call() -> None:
    def types() -> int:
        gc.collect()
        return len(ctypes.Array.__subclasses__())

    with contextlib.closing(create_arena(PAGE, "ctypes")):
        before = types()
        for pages in range(1, 100):
            with contextlib.closing(create_arena(pages * PAGE, "ctypes")) as arena:
                arena.buffer[0] = 1
                arena.decommit(0, PAGE)
        assert types() == before


DAEMON_WRITES_AT_EXIT = """
import threading
import numpy as np
from kvpool.backends import create_arena

arena = create_arena(64 << 20, "ctypes")
view = np.frombuffer(arena.buffer, np.uint8)
started = threading.Event()

def write():
    while True:
        view[:] = 1
        started.set()

threading.Thread(target=write, daemon=True).start()
started.wait()
"""


def test_exit_under_a_writing_thread() -> None:
    subprocess.run([sys.executable, "-c", DAEMON_WRITES_AT_EXIT], check=True)


# -- another system ------------------------------------------------------------------------

ELSEWHERE = """
import ctypes, mmap, sys
import numpy
import kvpool.backends
from kvpool.errors import ArenaError

sys.platform = "darwin"
(report,) = (r for r in kvpool.backends.registry.reports() if r.name == "ctypes")
print(report.state, report.plugin.capabilities.names())
try:
    kvpool.backends.create_arena(4096, "ctypes", mlock=True)
except ArenaError as error:
    print(error)
"""


def test_elsewhere_it_imports_and_refuses() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE], check=True, capture_output=True, text=True
    )
    state, message = done.stdout.splitlines()
    assert state == "ok ()"
    assert "ctypes arena of 4096 bytes" in message
    assert "darwin" in message
    assert "'mmap' or 'numpy'" in message
