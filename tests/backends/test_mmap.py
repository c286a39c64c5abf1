"""The mmap backend: the suite over memory and over files, and what only files have."""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kvpool.arena import Arena, Capability
from kvpool.backends import create_arena
from kvpool.errors import ArenaError, InvalidOptionError
from kvpool.testing import ArenaConformance
from tests.support.process_usage import mapped, open_files

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = mmap.PAGESIZE
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="says what holds on Linux")


class TestMmapArenaInMemory(ArenaConformance):
    backend = "mmap"


class TestMmapArenaInFile(ArenaConformance):
    backend = "mmap"

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        self.files = 0

    def create_arena(self, size: int, **options: object) -> Arena:
        self.files += 1
        path = self.folder / f"arena-{self.files}"
        return super().create_arena(size, **{"path": path, **options})


class TestMmapArenaWithoutMemfd(ArenaConformance):
    """As in an interpreter that was built for an old libc."""

    backend = "mmap"

    @pytest.fixture(autouse=True)
    def _no_memfd(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(os, "memfd_create", raising=False)

    @linux_only
    def test_shared_memory_is_elastic_too(self) -> None:
        with contextlib.closing(self.create_arena(PAGE)) as arena:
            assert Capability.ELASTIC in arena.info.capabilities
            assert not open_files("memfd:kvpool")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- memory ------------------------------------------------------------------------------


@linux_only
def test_memory_is_a_memfd_whose_blocks_come_and_go() -> None:
    with contextlib.closing(create_arena(64 * PAGE, "mmap")) as arena:
        assert Capability.ELASTIC in arena.info.capabilities
        assert Capability.PERSISTENT not in arena.info.capabilities
        with memfd() as descriptor:
            assert os.fstat(descriptor).st_size == 64 * PAGE
            assert os.fstat(descriptor).st_blocks == 0
            view = np.frombuffer(arena.buffer, np.uint8)
            view[: 16 * PAGE] = 1
            assert os.fstat(descriptor).st_blocks * 512 == 16 * PAGE
            arena.decommit(4 * PAGE, 8 * PAGE)
            assert os.fstat(descriptor).st_blocks * 512 == 8 * PAGE


@contextlib.contextmanager
def memfd() -> Iterator[int]:
    link = next(  # the mapping may keep another one
        link for link in Path("/proc/self/fd").iterdir() if "memfd:kvpool" in str(link.resolve())
    )
    descriptor = os.open(link, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


# -- files -------------------------------------------------------------------------------


def test_file_is_created_sparse_and_private(tmp_path: Path) -> None:
    path = tmp_path / "arena"
    size = 1 << 30
    with contextlib.closing(create_arena(size, "mmap", path=path)) as arena:
        assert Capability.PERSISTENT in arena.info.capabilities
        assert arena.info.zeroed
        assert path.stat().st_size == size
        if sys.platform == "linux":
            assert path.stat().st_blocks * 512 < 1 << 20
            assert stat.S_IMODE(path.stat().st_mode) == 0o600


@linux_only
def test_decommit_punches_holes_into_the_file(tmp_path: Path) -> None:
    path = tmp_path / "arena"
    with contextlib.closing(create_arena(64 * PAGE, "mmap", path=path)) as arena:
        assert Capability.ELASTIC in arena.info.capabilities
        np.frombuffer(arena.buffer, np.uint8)[:] = 1
        before = path.stat().st_blocks * 512
        arena.decommit(16 * PAGE, 32 * PAGE)
        assert before - path.stat().st_blocks * 512 == 32 * PAGE
        held = path.read_bytes()
    assert held == b"\1" * 16 * PAGE + b"\0" * 32 * PAGE + b"\1" * 16 * PAGE


@pytest.mark.parametrize("as_text", [True, False])
def test_content_outlasts_the_arena(tmp_path: Path, as_text: bool) -> None:
    path = str(tmp_path / "arena") if as_text else tmp_path / "arena"
    with contextlib.closing(create_arena(5000, "mmap", path=path)) as arena:
        arena.buffer[4999] = 42
    with contextlib.closing(create_arena(5000, "mmap", path=path, reuse=True)) as arena:
        assert not arena.info.zeroed
        assert arena.buffer[4999] == 42
        if sys.platform == "linux":
            assert Capability.ELASTIC in arena.info.capabilities
    assert Path(path).read_bytes() == bytes(4999) + b"*"
    assert names(tmp_path) == ["arena"]


def test_content_is_not_taken_without_being_asked(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_bytes(b"x" * 5000)
    with pytest.raises(ArenaError, match=r"precious.*5000 bytes already.*reuse=True"):
        create_arena(5000, "mmap", path=path)
    assert path.read_bytes() == b"x" * 5000


@pytest.mark.parametrize("reuse", [True, False])
@pytest.mark.parametrize("size", [1, 4999, 5001, 1 << 62])
def test_other_size_names_both(tmp_path: Path, size: int, reuse: bool) -> None:
    path = tmp_path / "precious"
    path.write_bytes(b"x" * 5000)
    with pytest.raises(ArenaError, match=rf"holds 5000 bytes.*{size}"):
        create_arena(size, "mmap", path=path, reuse=reuse)
    assert path.read_bytes() == b"x" * 5000


@pytest.mark.parametrize("reuse", [True, False])
def test_empty_file_is_as_good_as_none(tmp_path: Path, reuse: bool) -> None:
    path = tmp_path / "arena"
    path.touch()
    with contextlib.closing(create_arena(5000, "mmap", path=path, reuse=reuse)) as arena:
        assert arena.info.zeroed
        assert path.stat().st_size == 5000


def test_reuse_of_a_missing_file_creates_it(tmp_path: Path) -> None:
    path = tmp_path / "arena"
    with contextlib.closing(create_arena(5000, "mmap", path=path, reuse=True)) as arena:
        assert arena.info.zeroed


# -- refusals ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": 3}, "path.*3"),
        ({"path": ""}, "path.*''"),
        ({"path": b"bytes"}, "path.*b'bytes'"),
        ({"path": "nul\0byte"}, "path.*nul"),
        ({"path": "file", "reuse": 1}, "reuse.*1"),
        ({"path": "file", "reuse": "yes"}, "reuse.*'yes'"),
        ({"reuse": True}, "reuse=True.*path"),
    ],
)
def test_bad_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidOptionError, match=message):
        create_arena(4096, "mmap", **options)
    assert not names(tmp_path)


def test_path_that_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ArenaError, match=tmp_path.name):
        create_arena(4096, "mmap", path=tmp_path)
    with pytest.raises(ArenaError, match=r"no-such-folder.*ENOENT"):
        create_arena(4096, "mmap", path=tmp_path / "no-such-folder" / "arena")


@linux_only
def test_device_is_no_file() -> None:
    with pytest.raises(ArenaError, match=r"/dev/zero.*not a regular file"):
        create_arena(4096, "mmap", path="/dev/zero")


@pytest.fixture(params=["disk", "memory"])
def any_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder of a disk, where a huge file fails, and one of memory, where its mapping does."""
    if request.param == "disk":
        yield tmp_path
        return
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("there is no file system in memory")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@linux_only
@pytest.mark.parametrize("there", [True, False])
def test_failure_leaves_no_trace(any_folder: Path, there: bool) -> None:
    path = any_folder / "arena"
    if there:
        path.touch()
    with pytest.raises(ArenaError, match=f"path='{path}'") as caught:
        create_arena(1 << 61, "mmap", path=path)
    assert caught.value.__cause__ is not None
    assert names(any_folder) == (["arena"] if there else [])
    assert not there or path.stat().st_size == 0
    assert not open_files(str(path))
    assert not mapped(str(path))


@linux_only
def test_close_frees_the_file_with_the_last_view(tmp_path: Path) -> None:
    path = tmp_path / "arena"
    arena = create_arena(PAGE, "mmap", path=path)
    view = np.frombuffer(arena.buffer, np.uint8)[5:]
    arena.close()
    assert mapped(str(path))
    view[0] = 9
    del view
    gc.collect()
    assert not mapped(str(path))
    assert not open_files(str(path))
    assert path.read_bytes()[5] == 9


REFUSING_FILE_SYSTEM = """
import sys
from kvpool.backends import create_arena

for reuse in (False, True):
    arena = create_arena(8192, "mmap", path=sys.argv[1], reuse=reuse)
    print(arena.info.capabilities.names(), arena.buffer[0])
    arena.buffer[0] = 1
    arena.close()
"""


@linux_only
def test_file_system_that_punches_no_holes_is_not_elastic(tmp_path: Path) -> None:
    """Such as ramfs, mounted in a namespace of its own, where nobody else sees it."""
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], check=False).returncode:
        pytest.skip("this system has no user namespaces")
    mount_and_run = 'mount -t ramfs none "$1" && exec "$2" -c "$3" "$1/arena"'
    shell = ["sh", "-c", mount_and_run, "sh", str(tmp_path), sys.executable, REFUSING_FILE_SYSTEM]
    done = subprocess.run([*unshare, *shell], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["('persistent',) 0", "('persistent',) 1"]
