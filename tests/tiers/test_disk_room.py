"""The tier ``disk``: its budget, several processes, growth, uses, and compaction."""

from __future__ import annotations

import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kvpool.errors import TierError
from kvpool.tiers.disk import DiskTier
from tests.support.forked import Child, wait_for

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")


def value_of(number: int, nbytes: int = 50_000) -> bytes:
    return random.Random(number).randbytes(nbytes)


def key_of(number: int) -> bytes:
    return b"c/%032d" % number


def write(tier: DiskTier, numbers: range, nbytes: int = 50_000) -> int:
    return sum(tier.write([(key_of(n), [value_of(n, nbytes)])]) for n in numbers)


def copy_of(view: memoryview | None) -> bytes | None:
    return None if view is None else bytes(view)


def there(tier: DiskTier, numbers: range, nbytes: int = 50_000) -> list[int]:
    """Return which values there are; each is as it was written."""
    found = []
    for number in numbers:
        with tier.read([key_of(number)]) as (value,):
            if value is not None:
                assert value == value_of(number, nbytes)
                found.append(number)
    return found


# -- the budget ------------------------------------------------------------------------------


@pytest.mark.parametrize("largest", [3_000, 60_000, 900_000])
def test_values_of_all_sizes_come_and_go(tmp_path: Path, largest: int) -> None:
    """The file keeps its limit, and new values find room however the old ones lie."""
    path, draws, capacity, used = tmp_path / "kv", random.Random(largest), 4 << 20, 0
    with DiskTier(path, capacity) as tier:
        written = 0
        total = 0
        number = 0
        while total < 5 * capacity:
            batch = []
            for _ in range(draws.randrange(1, 8)):
                nbytes = draws.randrange(1, largest)
                batch.append((key_of(number), [value_of(number, nbytes)]))
                number += 1
                total += nbytes
            written += tier.write(batch)
            if draws.random() < 0.2:
                tier.remove([key_of(draws.randrange(number)) for _ in range(3)])
            used = tier.stats().nbytes or 0
            assert used <= capacity
        assert (path / "data.mdb").stat().st_size <= capacity
        assert written + tier.stats().refused == number
        assert tier.stats().refused <= number // 100
        assert used > capacity // 3


def test_a_reader_that_holds_pages_does_not_stop_the_writer(tmp_path: Path) -> None:
    """Pages that a block shows are not used again; when there are no others, values are refused."""
    with DiskTier(tmp_path / "kv", 4 << 20) as tier:
        write(tier, range(50))
        with tier.read([key_of(49)]) as (value,):
            for start in range(100, 400, 50):
                write(tier, range(start, start + 50))
            assert copy_of(value) == value_of(49)
            assert tier.stats().refused > 0
        refused = tier.stats().refused
        assert write(tier, range(1000, 1050)) == 50
        assert tier.stats().refused == refused


def test_a_large_batch_is_written_in_parts(tmp_path: Path) -> None:
    with DiskTier(tmp_path / "kv", 8 << 20) as tier:
        items = [(key_of(number), [value_of(number)]) for number in range(100)]
        assert tier.write(items) == 100
        assert there(tier, range(100)) == list(range(100))


def test_a_smaller_capacity_evicts_down_to_it(tmp_path: Path) -> None:
    path = tmp_path / "kv"
    with DiskTier(path, 16 << 20) as tier:
        assert write(tier, range(200)) == 200
    with DiskTier(path, 4 << 20) as tier:
        assert write(tier, range(200, 210)) == 10
        stats = tier.stats()
        assert stats.nbytes is not None
        assert stats.nbytes <= 4 << 20
        found = there(tier, range(210))
        assert found == list(range(210 - len(found), 210))


def test_a_larger_capacity_is_used(tmp_path: Path) -> None:
    path = tmp_path / "kv"
    with DiskTier(path, 1 << 20) as tier:
        write(tier, range(50))
        assert len(there(tier, range(50))) < 25
    with DiskTier(path, 16 << 20) as tier:
        write(tier, range(50, 250))
        assert len(there(tier, range(250))) > 200


# -- uses ------------------------------------------------------------------------------------


def test_uses_are_remembered_by_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "kv"
    with DiskTier(path, 4 << 20) as tier:
        write(tier, range(60))
        assert there(tier, range(5)) == list(range(5))
    with DiskTier(path, 4 << 20) as tier:
        write(tier, range(60, 100))
        found = there(tier, range(100))
        assert found[:5] == list(range(5))
        assert 5 not in found


def test_writing_again_is_a_use(tmp_path: Path) -> None:
    with DiskTier(tmp_path / "kv", 4 << 20) as tier:
        write(tier, range(60))
        write(tier, range(5))
        write(tier, range(60, 100))
        assert there(tier, range(100))[:5] == list(range(5))


def test_a_use_of_a_value_that_is_gone_is_nothing(tmp_path: Path) -> None:
    with DiskTier(tmp_path / "kv", 4 << 20) as tier:
        write(tier, range(10))
        there(tier, range(10))
        tier.remove([key_of(number) for number in range(10)])
        write(tier, range(10, 12))
        assert tier.stats().values == 2
        assert sorted(tier.keys()) == [key_of(10), key_of(11)]


# -- processes -------------------------------------------------------------------------------


def test_what_one_process_writes_another_reads(tmp_path: Path) -> None:
    path = tmp_path / "kv"

    def act(say: Callable[[str], None]) -> None:
        with DiskTier(path, 16 << 20) as tier:
            say(str(write(tier, range(20))))
            while len(there(tier, range(100, 120))) < 20:
                time.sleep(0.01)
            say("seen")

    with Child(act) as child, DiskTier(path, 16 << 20) as tier:
        assert child.line() == "20"
        assert there(tier, range(20)) == list(range(20))
        write(tier, range(100, 120))
        assert child.line() == "seen"
        assert child.wait() == 0


def test_two_processes_write_at_the_same_time(tmp_path: Path) -> None:
    """The same keys and different ones, while both evict, and a third one reads."""
    path = tmp_path / "kv"

    def act(seed: int) -> Callable[[Callable[[str], None]], None]:
        def work(say: Callable[[str], None]) -> None:
            draws = random.Random(seed)
            with DiskTier(path, 4 << 20) as tier:
                for _ in range(150):
                    write(tier, range(start := draws.randrange(150), start + 3))
                    if draws.random() < 0.1:
                        tier.remove([key_of(draws.randrange(150))])
                say("done")

        return work

    with Child(act(1)) as one, Child(act(2)) as other, DiskTier(path, 4 << 20) as tier:
        for _ in range(20):
            there(tier, range(153))
        assert (one.line(), other.line()) == ("done", "done")
        assert (one.wait(), other.wait()) == (0, 0)
        keys = list(tier.keys())
        assert len(keys) == tier.stats().values == len(there(tier, range(153)))
        assert tier.stats().refused == 0


def grow_after(go: Path, path: Path) -> Callable[[Callable[[str], None]], None]:
    """Return what makes a store larger, once a file is there."""

    def grow(say: Callable[[str], None]) -> None:
        wait_for(go)
        with DiskTier(path, 16 << 20) as larger:
            say(str(write(larger, range(100, 250))))

    return grow


def test_another_process_makes_the_store_larger(tmp_path: Path) -> None:
    path, go = tmp_path / "kv", tmp_path / "go"
    with Child(grow_after(go, path)) as child, DiskTier(path, 2 << 20) as tier:
        write(tier, range(10))
        go.touch()
        assert child.line() == "150"
        assert child.wait() == 0
        assert there(tier, range(100, 250)) == list(range(100, 250))
        assert write(tier, range(300, 305)) == 5  # and evicts down to its own budget
        assert len(there(tier, range(310))) < 40


def test_growth_while_a_block_shows_the_store(tmp_path: Path) -> None:
    """The map cannot be replaced then; the error says what to do, and the block goes on."""
    path, go = tmp_path / "kv", tmp_path / "go"
    with Child(grow_after(go, path)) as child, DiskTier(path, 2 << 20) as tier:
        write(tier, range(10))
        with tier.read([key_of(9)]) as (value,):
            go.touch()
            assert child.line() == "150"
            assert child.wait() == 0
            with pytest.raises(TierError, match=r"larger.*end the block"):
                tier.contains([key_of(100)])
            assert copy_of(value) == value_of(9)
        assert there(tier, range(100, 250)) == list(range(100, 250))


def test_a_process_opens_a_directory_once(tmp_path: Path) -> None:
    path = tmp_path / "kv"
    with DiskTier(path, 1 << 20), pytest.raises(TierError, match="open already"):
        DiskTier(path, 1 << 20)
    with DiskTier(path, 1 << 20):

        def act(say: Callable[[str], None]) -> None:
            try:
                DiskTier(path, 1 << 20)
            except TierError as error:
                say(str(error))

        with Child(act) as child:
            assert "open it after the fork" in child.line()


# -- compaction ------------------------------------------------------------------------------


def test_compaction_makes_the_file_as_small_as_its_values(tmp_path: Path) -> None:
    path = tmp_path / "kv"
    with DiskTier(path, 16 << 20) as tier:
        write(tier, range(200))
        tier.remove([key_of(number) for number in range(190)])
        before, after = tier.compact()
        assert before > 10_000_000
        assert after < 800_000
        assert (path / "data.mdb").stat().st_size == after
        assert there(tier, range(200)) == list(range(190, 200))
        assert write(tier, range(10)) == 10
    with DiskTier(path, 16 << 20) as tier:
        assert there(tier, range(200)) == [*range(10), *range(190, 200)]
    assert sorted(file.name for file in path.iterdir()) == ["data.mdb", "in-use", "lock.mdb"]


def test_compaction_is_refused_while_the_store_is_in_use(tmp_path: Path) -> None:
    path, go = tmp_path / "kv", tmp_path / "go"

    def use(say: Callable[[str], None]) -> None:
        wait_for(go)
        with DiskTier(path, 4 << 20):
            say("open")
            signal.pause()  # until it is killed

    with Child(use) as child, DiskTier(path, 4 << 20) as tier:
        write(tier, range(10))
        with tier.read([key_of(0)]), pytest.raises(TierError, match="in use"):
            tier.compact()
        go.touch()
        assert child.line() == "open"
        with pytest.raises(TierError, match="in use"):
            tier.compact()
        assert there(tier, range(10)) == list(range(10))
        child.kill()
        tier.compact()
        assert there(tier, range(10)) == list(range(10))
