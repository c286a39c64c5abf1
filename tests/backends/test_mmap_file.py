"""The file of an mmap arena: one owner, private to its user, and room for its pages."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from kvpool.arena import Arena, ArenaFork, ForkLimits
from kvpool.backends import create_arena, registry
from kvpool.errors import ArenaError, ForkLimitError
from kvpool.pool import open_pool
from tests.support.mounts import run_on

PAGE = os.sysconf("SC_PAGE_SIZE")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="says what holds on Linux")


# -- one owner -----------------------------------------------------------------------------


def test_a_file_has_one_arena_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "arena"
    with contextlib.closing(create_arena(PAGE, "mmap", path=path)) as arena:
        for reuse in (False, True):
            with pytest.raises(ArenaError, match=rf"in use by.* process {os.getpid()}.*this one"):
                create_arena(PAGE, "mmap", path=path, reuse=reuse)
        arena.buffer[0] = 7
    with contextlib.closing(create_arena(PAGE, "mmap", path=path, reuse=True)) as arena:
        assert arena.buffer[0] == 7


def test_a_view_keeps_the_file_in_use(tmp_path: Path) -> None:
    path = tmp_path / "arena"
    arena = create_arena(PAGE, "mmap", path=path)
    view, fork = np.frombuffer(arena.buffer, np.uint8), arena.fork(0, PAGE).buffer
    arena.close()
    for _ in range(2):
        with pytest.raises(ArenaError, match="in use"):
            create_arena(PAGE, "mmap", path=path, reuse=True)
        del view
        view = np.frombuffer(fork, np.uint8)
    del view, fork
    create_arena(PAGE, "mmap", path=path, reuse=True).close()


OTHER_PROCESS = """
import sys
from kvpool.backends import create_arena
from kvpool.errors import ArenaError
try:
    create_arena(int(sys.argv[2]), "mmap", path=sys.argv[1], reuse=True)
    print("opened")
except ArenaError as error:
    print(error)
"""


def open_in_another_process(path: Path) -> str:
    command = [sys.executable, "-c", OTHER_PROCESS, str(path), str(PAGE)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_another_process_is_told_the_owner(tmp_path: Path) -> None:
    path = tmp_path / "arena"
    with contextlib.closing(create_arena(PAGE, "mmap", path=path)):
        assert f"in use by an arena of process {os.getpid()};" in open_in_another_process(path)
    assert open_in_another_process(path) == "opened"


def test_a_child_does_not_keep_the_file_in_use(tmp_path: Path) -> None:
    """A child that lives on, with a view, has no lock; one that ends takes no lock away."""
    path = tmp_path / "arena"
    arena = create_arena(PAGE, "mmap", path=path)
    view = np.frombuffer(arena.buffer, np.uint8)
    receiver, sender = os.pipe()
    child = os.fork()
    if not child:
        os.close(sender)
        os.read(receiver, 1)  # until the parent has looked
        os._exit(int(view[0]))
    os.close(receiver)
    ended = os.fork()
    if not ended:
        arena.close()
        os._exit(0)
    os.waitpid(ended, 0)
    while_open = open_in_another_process(path)
    arena.close()
    del view, arena
    after_close = open_in_another_process(path)
    os.close(sender)
    assert os.waitpid(child, 0)[1] == 0
    assert "in use" in while_open
    assert after_close == "opened"


def test_threads_that_open_one_new_path_have_one_owner(tmp_path: Path) -> None:
    for number in range(100):
        path = tmp_path / f"arena-{number}"
        opened: list[Arena] = []
        refused: list[str] = []
        barrier = threading.Barrier(3)

        def open_it(
            path: Path = path,
            opened: list[Arena] = opened,
            refused: list[str] = refused,
            barrier: threading.Barrier = barrier,
        ) -> None:
            barrier.wait()
            try:
                opened.append(create_arena(8 * PAGE, "mmap", path=path))
            except ArenaError as error:
                refused.append(str(error))

        threads = [threading.Thread(target=open_it) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (arena,) = opened
        assert all("in use" in text for text in refused)
        np.frombuffer(arena.buffer, np.uint8)[:] = 1
        arena.close()


def test_a_creation_that_fails_spoils_no_other(tmp_path: Path) -> None:
    """One that fails removes its new file under the lock; the other has a file of its own."""
    path = tmp_path / "arena"
    stop = threading.Event()

    def fail() -> None:
        while not stop.is_set():
            with contextlib.suppress(ArenaError):
                create_arena(1 << 61, "mmap", path=path)

    thread = threading.Thread(target=fail)
    thread.start()
    try:
        for _ in range(100):
            try:
                arena = create_arena(PAGE, "mmap", path=path)
            except ArenaError:
                continue
            assert path.stat().st_size == PAGE
            arena.close()
            path.unlink()
    finally:
        stop.set()
        thread.join()


# -- permissions ---------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o602])
def test_content_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "arena"
    path.write_bytes(b"x" * PAGE)
    path.chmod(mode)
    with pytest.raises(ArenaError, match=rf"mode {mode:04o}.*chmod 600 .*arena"):
        create_arena(PAGE, "mmap", path=path, reuse=True)
    assert path.read_bytes() == b"x" * PAGE
    path.chmod(0o600)
    create_arena(PAGE, "mmap", path=path, reuse=True).close()


def test_an_empty_file_is_made_private(tmp_path: Path) -> None:
    path = tmp_path / "arena"
    path.touch(0o666)
    path.chmod(0o666)
    with contextlib.closing(create_arena(PAGE, "mmap", path=path)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


# -- room ----------------------------------------------------------------------------------

FULL_DISK = """
import os, sys
import numpy as np
from kvpool.backends import create_arena
from kvpool.errors import ArenaFullError

path, page = sys.argv[1] + "/arena", 4096
arena = create_arena(1 << 30, "mmap", path=path)
view = np.frombuffer(arena.buffer, np.uint8)
arena.commit(0, 16 * page)
view[:16 * page] = 1
try:
    arena.commit(16 * page, 1 << 20)
except ArenaFullError as error:
    print("full:", error)
assert view[:16 * page].all() and not view[16 * page]
arena.decommit(0, 1 << 30)
arena.commit(1 << 20, 16 * page)
view[1 << 20 : (1 << 20) + 16 * page] = 2
try:
    create_arena(1 << 20, "mmap", path=sys.argv[1] + "/other").commit(0, 1 << 20)
except ArenaFullError as error:
    print("other:", error)
with open(sys.argv[1] + "/filler", "wb", buffering=0) as filler:
    try:
        while filler.write(bytes(page)):
            pass
    except OSError as error:
        print("filled")
try:
    create_arena(1 << 20, "mmap", path=sys.argv[1] + "/third")
except Exception as error:
    print(type(error).__name__, "ENOSPC" in str(error), os.path.exists(sys.argv[1] + "/third"))
"""


def test_a_full_disk_is_an_error(tmp_path: Path) -> None:
    full, other, filled, third = run_on("tmpfs -o size=256k", tmp_path, FULL_DISK)
    assert "full: cannot commit [65536, 1114112): ENOSPC" in full
    assert "make room" in full
    assert "other: cannot commit [0, 1048576): ENOSPC" in other
    assert filled == "filled"
    assert third == "ArenaError True False"


def test_room_is_for_pages_of_the_file_alone(tmp_path: Path) -> None:
    with contextlib.closing(create_arena(64 * PAGE, "mmap", path=tmp_path / "arena")) as arena:
        assert arena.info.needs_commit
        with pytest.raises(ArenaError, match="outside"):
            arena.commit(64 * PAGE, PAGE)
        assert (tmp_path / "arena").stat().st_size == 64 * PAGE
    with contextlib.closing(create_arena(64 * PAGE, "mmap")) as arena:
        assert not arena.info.needs_commit


NO_HOLES = """
import logging, os, sys
from kvpool.pool import open_pool

logging.basicConfig(stream=sys.stdout, format="%(message)s")
path = sys.argv[1] + "/arena"
with open_pool(1 << 20, "mmap", path=path) as pool:
    print(type(pool).__name__, os.path.getsize(path), pool.arena_info.capabilities.names())
    pool.view(pool.allocate(4096), "uint8", 4096)[:] = 1
os.unlink(path)
try:
    open_pool(1 << 20, "mmap", path=path, elastic=True)
except Exception as error:
    print(type(error).__name__, os.listdir(sys.argv[1]))
"""


def test_whole_blocks_where_no_holes_can_be_punched(tmp_path: Path) -> None:
    """Such as on ramfs; the pool says so, and no sparse file is left of the trial."""
    warning, pool, again, refusal = run_on("ramfs", tmp_path, NO_HOLES)
    assert warning == again
    assert "does not give single pages back" in warning
    assert pool == "MemoryPool 1048576 ('persistent',)"
    assert refusal == "UnsupportedError []"


def test_no_warning_where_holes_can_be_punched(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), open_pool(1 << 20, "mmap", path=tmp_path / "arena"):
        assert not caplog.records
    sparse = registry.choose("mmap").sparse
    assert sparse is not None
    assert sparse({"path": tmp_path / "missing" / "arena"}) > 0


# -- limits of the process -------------------------------------------------------------------


def test_forks_of_all_arenas_share_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvpool.fork_limits._max_mappings", lambda: 8)
    with (
        contextlib.closing(create_arena(PAGE, "mmap")) as first,
        contextlib.closing(create_arena(PAGE, "ctypes")) as second,
    ):
        forks = [first.fork(0, PAGE), second.fork(0, PAGE), second.fork(0, PAGE)]
        forks.append(first.fork(0, PAGE))
        for arena in (first, second):
            with pytest.raises(ForkLimitError, match=r"4 mappings.*max_map_count") as caught:
                arena.fork(0, PAGE)
            assert caught.value.reason == "mappings"
        del forks[1]
        assert second.fork(0, PAGE).buffer[0] == 0


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="a fork keeps no descriptor since 3.13")
def test_forks_leave_half_of_the_descriptors() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.closing(create_arena(PAGE, "mmap")) as arena:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        try:
            forks: list[ArenaFork] = []
            with pytest.raises(ForkLimitError, match=r"128 descriptors.*ulimit -n") as caught:
                forks.extend(arena.fork(0, PAGE) for _ in range(256))
            assert ForkLimits.limit(descriptors=True) == 128
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert caught.value.reason == "descriptors"
