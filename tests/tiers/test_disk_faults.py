"""The tier ``disk``: kills, damage, full and read-only disks, links and rights."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import shutil
import signal
import stat
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import lmdb.verify
import numpy as np
import pytest

from kvpool import KVCacheEntry, KVLayout, MemoryPool
from kvpool.errors import InvalidSizeError, InvalidTierError, TierError
from kvpool.prefix import Identity, token_bytes
from kvpool.tiers import TierStore, open_tier
from kvpool.tiers._lmdb import Database
from kvpool.tiers.disk import DiskTier
from tests.support.forked import Child
from tests.support.mounts import run_on

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks, signals and rights")

PAGE = 4096
KILLS = int(os.environ.get("KVPOOL_KILLS", "20"))


def value_of(number: int, nbytes: int = 50_000) -> bytes:
    return random.Random(number).randbytes(nbytes)


def key_of(number: int) -> bytes:
    return b"c/%032d" % number


def size_of(number: int) -> int:
    return 1000 + number * 7919 % 90_000


def filled(path: Path, count: int = 20, **options: Any) -> Path:
    """Make a store with some values, and return its file."""
    with DiskTier(path, 16 << 20, **options) as tier:
        items = [(key_of(number), [value_of(number, size_of(number))]) for number in range(count)]
        assert tier.write(items) == count
    return path / "data.mdb"


def found_in(path: Path, count: int = 20) -> int:
    """Return how many of the values there are; each is as it was written."""
    with DiskTier(path, 16 << 20) as tier:
        return sum(is_there(tier, number) for number in range(count))


def is_there(tier: DiskTier, number: int) -> bool:
    with tier.read([key_of(number)]) as (value,):
        assert value is None or value == value_of(number, size_of(number))
        return value is not None


# -- kills -----------------------------------------------------------------------------------


@pytest.mark.no_cover
@pytest.mark.parametrize("durability", ["disk", "system"])
def test_what_was_acknowledged_survives_a_kill(tmp_path: Path, durability: Any) -> None:
    """And what is there is whole. `KVPOOL_KILLS` says how often a writer is killed."""
    path, draws = tmp_path / "kv", random.Random(0)
    acknowledged = 0

    def write(say: Callable[[str], None]) -> None:
        with DiskTier(path, 1 << 30, durability=durability) as tier:
            number = acknowledged
            while True:
                assert tier.write([(key_of(number), [value_of(number, size_of(number))])]) == 1
                number += 1
                say(str(number))

    for _ in range(KILLS // 2):
        with Child(write) as child:
            assert child.line() == str(acknowledged + 1), child.rest()
            time.sleep(draws.random() * 0.03)
            child.kill()
            acknowledged = max([acknowledged + 1, *map(int, child.rest())])
    with DiskTier(path, 1 << 30) as tier:
        assert all(is_there(tier, number) for number in range(acknowledged))
        written = len(list(tier.keys()))
        assert all(is_there(tier, number) for number in range(acknowledged, written))
    assert lmdb_problems(path) == []


@pytest.mark.no_cover
def test_writers_that_are_killed_while_they_evict(tmp_path: Path) -> None:
    """What is there is whole, and the books are right."""
    path, draws = tmp_path / "kv", random.Random(1)

    def write(say: Callable[[str], None]) -> None:
        with DiskTier(path, 2 << 20) as tier:
            for number in range(10**6):
                tier.write([(key_of(number % 97), [value_of(number % 97, size_of(number % 97))])])
                say("")

    for _ in range(KILLS // 4):
        with Child(write) as child:
            child.line()
            time.sleep(draws.random() * 0.05)
    with DiskTier(path, 2 << 20) as tier:
        keys = list(tier.keys())
        assert len(keys) == tier.stats().values
        assert sum(is_there(tier, number) for number in range(97)) == len(keys) > 5
        assert tier.remove(keys) == len(keys)
        assert tier.stats().values == 0
    assert lmdb_problems(path) == []


def lmdb_problems(path: Path) -> list[str]:
    """Return what LMDB's own verifier finds."""
    verify: Callable[[str], list[str]] = lmdb.verify.verify
    return verify(str(path))


@pytest.mark.no_cover
def test_a_reader_that_was_killed_keeps_no_page(tmp_path: Path) -> None:
    path = tmp_path / "kv"
    filled(path)

    def read(say: Callable[[str], None]) -> None:
        with DiskTier(path, 16 << 20) as tier, tier.read([key_of(0)]):
            say("reads")
            signal.pause()  # until it is killed

    with Child(read) as child:
        assert child.line() == "reads"
        child.kill()
    with DiskTier(path, 16 << 20) as tier:
        for number in range(100, 600):  # several times the file
            assert tier.write([(key_of(number), [value_of(number, 100_000)])]) == 1
        assert tier.stats().refused == 0


# -- damage ----------------------------------------------------------------------------------

LAYOUT = KVLayout(layers=2, kv_heads=2, head_dim=16, dtype="float32")
IDENTITY = Identity("model", "", LAYOUT)
TOKENS = token_bytes(list(range(320)))


def keys_and_values() -> Any:
    draws = np.random.default_rng(0)
    return draws.standard_normal((2, 2, 2, 320, 16)).astype(np.float32)


def structural_pages(data: bytes) -> list[int]:
    """Return the pages that are not those of large values."""
    pages, page = [], 0
    while page < len(data) // PAGE:
        (flags,) = struct.unpack_from("<H", data, page * PAGE + 10)
        if flags & 4:
            (count,) = struct.unpack_from("<I", data, page * PAGE + 12)
            page += count
        else:
            pages.append(page)
            page += 1
    return pages


@pytest.mark.no_cover
def test_a_flipped_byte_anywhere_is_a_miss_at_most(tmp_path: Path) -> None:
    """No process ends, and no wrong keys and values are served."""
    path = tmp_path / "kv"
    keys, values = keys_and_values()
    with TierStore([f"disk:{path}?capacity=4MiB"], chunk_tokens=16) as store:
        store.put(IDENTITY, TOKENS, keys, values)
    original = (path / "data.mdb").read_bytes()
    draws, outcomes = random.Random(0), list[str]()
    structure = structural_pages(original)

    def load(say: Callable[[str], None]) -> None:
        pool = MemoryPool(4 << 20, backend="numpy")
        with TierStore([f"disk:{path}?capacity=4MiB"], chunk_tokens=16) as store:
            entry = KVCacheEntry.create(pool, LAYOUT, 320, "test")
            store.load(IDENTITY, TOKENS, entry)
            count = entry.token_count
            assert np.array_equal(entry.keys(), keys[:, :, :count])
            assert np.array_equal(entry.values(), values[:, :, :count])
            store.put(IDENTITY, TOKENS, keys, values)  # and it can be written again
            store.drain(60)
            store.load(IDENTITY, TOKENS, entry)
            assert entry.token_count == 320
            say(str(count))

    logging.getLogger("kvpool.tiers").setLevel(logging.ERROR)
    try:
        for number in range(60):
            at = draws.randrange(len(original))
            if number % 2:
                at = draws.choice(structure) * PAGE + draws.randrange(PAGE)
            damaged = bytearray(original)
            damaged[at] ^= 1 << draws.randrange(8)
            shutil.rmtree(path)
            path.mkdir(mode=0o700)
            (path / "data.mdb").write_bytes(damaged)
            (path / "data.mdb").chmod(0o600)
            with Child(load) as child:
                outcomes.append(child.line())
                assert child.wait() == 0, (at, outcomes[-1])
    finally:
        logging.getLogger("kvpool.tiers").setLevel(logging.NOTSET)
    assert "320" in outcomes
    assert len(set(outcomes)) > 2


def test_a_damaged_file_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "kv"
    data = filled(path)
    damaged = bytearray(data.read_bytes())
    for page in structural_pages(bytes(damaged))[2:]:
        damaged[page * PAGE + 16 : page * PAGE + 64] = b"\xff" * 48
    data.write_bytes(damaged)
    with pytest.raises(TierError, match=r"damaged .*opened for reading alone"):
        DiskTier(path, readonly=True)
    assert found_in(path) == 0
    assert "is damaged" in caplog.text
    assert str(path / "data.mdb.damaged") in caplog.text
    assert (path / "data.mdb.damaged").read_bytes() == damaged
    filled(path)
    assert found_in(path) == 20


@pytest.mark.parametrize("content", [b"x", b"no database" * 1000, bytes(3 * PAGE)])
def test_a_file_of_something_else_is_set_aside(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "kv"
    path.mkdir(mode=0o700)
    (path / "data.mdb").write_bytes(content)
    assert found_in(path) == 0
    assert (path / "data.mdb.damaged").read_bytes() == content


def test_a_store_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "kv"
    filled(path)
    with lmdb.open(str(path), max_dbs=4) as environment:
        about = environment.open_db(b"about")
        with environment.begin(write=True) as txn:
            txn.put(b"format", b"kvpool tier 2", db=about)
    for _ in range(2):
        with pytest.raises(TierError, match=r"'kvpool tier 2', this version .* 'kvpool tier 1'"):
            DiskTier(path)
    assert not (path / "data.mdb.damaged").exists()


def test_a_file_that_is_cut_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "kv"
    data = filled(path)
    os.truncate(data, data.stat().st_size // 2)
    assert found_in(path) == 0


# -- disks -----------------------------------------------------------------------------------

FULL_DISK = """
import logging, os, sys
from pathlib import Path
from kvpool.tiers.disk import DiskTier

logging.basicConfig(stream=sys.stdout, format="%(message)s")
path = Path(sys.argv[1], "kv")
tier = DiskTier(path, 64 << 20, durability="disk")
ballast = Path(sys.argv[1], "ballast")
ballast.write_bytes(bytes(1 << 20))

def key(number):
    return b"%d" % number

def there(numbers):
    found = []
    for number in numbers:
        with tier.read([key(number)]) as (value,):
            if value is not None:
                assert bytes(value) == bytes([number]) * 100_000
                found.append(number)
    return found

def write(number):
    return tier.write([(key(number), [bytes([number]) * 100_000])])

stored = [number for number in range(60) if write(number)]
assert len(stored) + tier.stats().refused == 60
found = there(range(60))
assert len(found) + tier.stats().evicted == len(stored)
assert 10 < len(found) < 42, found
tier.close()
tier = DiskTier(path, 64 << 20)
assert there(range(60)) == found
ballast.unlink()
again = sum(map(write, range(100, 105)))
print(again, there(range(100, 105)) == list(range(100, 105)))
tier.close()
"""


def test_a_full_disk_refuses_values_and_loses_nothing(tmp_path: Path) -> None:
    """It is a smaller store for as long as it lasts; and one line of the log tells."""
    *told, last = run_on("tmpfs -o size=4m", tmp_path, FULL_DISK)
    assert last == "5 True"
    assert sum("the disk has no room" in line for line in told) <= 1 + sum(
        "takes values again" in line for line in told
    )


READONLY_DISK = """
import subprocess, sys
from pathlib import Path
from kvpool.errors import TierError
from kvpool.tiers.disk import DiskTier

path = Path(sys.argv[1], "kv")
with DiskTier(path, 1 << 20) as tier:
    tier.write([(b"key", [b"value"])])
subprocess.run(["mount", "-o", "remount,ro", sys.argv[1]], check=True)
try:
    DiskTier(path)
except TierError as error:
    print(error)
with DiskTier(path, readonly=True) as tier, tier.read([b"key"]) as (value,):
    print(bytes(value), tier.write([(b"key", [b"value"]), (b"new", [b"value"])]))
    print(tier.stats().refused, list(tier.keys()))
"""


def test_a_readonly_disk(tmp_path: Path) -> None:
    refused, read, figures = run_on("tmpfs -o size=4m", tmp_path, READONLY_DISK)
    assert "cannot use the directory" in refused
    assert "Read-only file system" in refused
    assert read == "b'value' 1"
    assert figures == "1 [b'key']"


def test_a_tier_that_is_opened_for_reading_alone(tmp_path: Path) -> None:
    path = tmp_path / "kv"
    data = filled(path)
    before = data.read_bytes()
    with DiskTier(path, readonly=True) as tier:
        assert all(is_there(tier, number) for number in range(20))
        assert tier.write([(b"new", [b"value"])]) == 0
        assert tier.stats().refused == 1
        with pytest.raises(TierError, match="reading alone"):
            tier.remove([key_of(0)])
        with pytest.raises(TierError, match="reading alone"):
            tier.compact()
    assert data.read_bytes() == before


def test_a_store_that_is_not_there_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(TierError, match="No such file"):
        DiskTier(tmp_path / "kv", readonly=True)
    assert not (tmp_path / "kv").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs another user")
def test_a_directory_of_another_user_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "kv"
    filled(path)
    for folder in (path, *path.parents):
        if folder.owner() == "root" and folder != Path("/"):
            with contextlib.suppress(OSError):
                folder.chmod(folder.stat().st_mode | 0o055)

    def open_it(say: Callable[[str], None]) -> None:
        os.setgid(65534)
        os.setuid(65534)
        for readonly in (False, True):
            try:
                DiskTier(path, readonly=readonly)
            except TierError as error:
                say(str(error))

    with Child(open_it) as child:
        assert "Permission denied" in child.line()
        assert "Permission denied" in child.line()


# -- rights and links ------------------------------------------------------------------------


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "some" / "kv"
    before = os.umask(0)
    try:
        with DiskTier(path, 1 << 20) as tier:
            tier.write([(b"key", [b"value"])])
            tier.compact()
    finally:
        os.umask(before)
    assert mode_of(path) == 0o700
    modes = {file.name: mode_of(file) for file in path.iterdir()}
    assert modes == dict.fromkeys(("data.mdb", "lock.mdb", "in-use"), 0o600)


@pytest.mark.parametrize("name", ["data.mdb", "lock.mdb", "in-use"])
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_no_link_is_followed_out(tmp_path: Path, name: str, link: Callable[..., None]) -> None:
    path, outside = tmp_path / "kv", tmp_path / "outside"
    path.mkdir(mode=0o700)
    outside.write_bytes(b"something of others")
    link(outside, path / name)
    for readonly in (False, True):
        with pytest.raises(TierError, match=f"{name}.* link"):
            DiskTier(path, readonly=readonly)
    assert outside.read_bytes() == b"something of others"


def test_a_directory_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "kv").symlink_to(tmp_path / "real")
    with pytest.raises(TierError, match="symbolic link"):
        DiskTier(tmp_path / "kv")
    assert list((tmp_path / "real").iterdir()) == []


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kv").write_text("a file")
    with pytest.raises(TierError, match="cannot use the directory"):
        DiskTier(tmp_path / "kv")


@pytest.mark.parametrize("name", ["", "data.mdb"])
def test_what_others_can_write_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "kv"
    filled(path)
    (path / name).chmod(0o722)
    with pytest.raises(TierError, match=r"written by others .*chmod go-w"):
        DiskTier(path)
    (path / name).chmod(0o700)
    assert found_in(path) == 20


# -- arguments -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("capacity=1023KiB", "at least 1048576"),
        ("capacity=lots", "'lots'"),
        ("durability=much", "'disk' or 'system', not 'much'"),
        ("readonly=1", "the option 'readonly' must be 'yes' or 'no', not '1'"),
        ("check=0", "the option 'check' must be 'yes' or 'no', not '0'"),
        ("size=1GiB", "no option 'size'; its options: capacity, check, durability, readonly"),
    ],
)
def test_options_that_are_refused(tmp_path: Path, options: str, reason: str) -> None:
    with pytest.raises((InvalidTierError, InvalidSizeError), match=reason):
        open_tier(f"disk:{tmp_path / 'kv'}?{options}")
    assert not (tmp_path / "kv").exists()


@pytest.mark.parametrize(("durability", "waits"), [("disk", True), ("system", False)])
def test_a_write_waits_for_the_disk_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: Any, waits: bool
) -> None:
    seen: list[Any] = []
    real = lmdb.open

    def spy(path: str, **options: Any) -> Any:
        seen.append(options["sync"])
        return real(path, **options)

    monkeypatch.setattr(lmdb, "open", spy)
    DiskTier(tmp_path / "kv", durability=durability).close()
    assert seen == [waits]


def test_a_tier_that_does_not_check_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []
    monkeypatch.setattr("kvpool.tiers._lmdb._structural_problems", checked.append)
    path = tmp_path / "kv"
    filled(path)
    DiskTier(path, check=False).close()
    assert checked == []
    DiskTier(path).close()
    assert checked == [str(path)]


def test_a_value_that_is_lost_alone_is_written_anew_and_counted_once(tmp_path: Path) -> None:
    """Its use is still noted, so it must not stand in the order of uses twice."""
    path = tmp_path / "kv"
    for _ in range(2):
        with DiskTier(path, 1 << 20) as tier:
            assert tier.write([(b"key", [b"value"])]) == 1
        store = Database(path, 1 << 20, sync=False, readonly=False, check=False)
        with store.writing("lose a value") as txn:
            assert txn.stat(store.order)["entries"] == txn.stat(store.uses)["entries"] == 1
            assert txn.delete(b"key", db=store.values)
        store.close()
