"""`kvpool gc`: the file becomes as small as what is to stay."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kvpool.cli import app
from kvpool.tiers import verify_tier
from kvpool.tiers.disk import DiskTier
from tests.support import terminal
from tests.support.called import run
from tests.support.forked import Child
from tests.support.stored_chunks import chunks, store

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="locks of files")

COUNT = 400
MIB = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A tier with 400 chunks, of which 100 were removed."""
    store(tmp_path / "kv", COUNT)
    with DiskTier(tmp_path / "kv", 8 * MIB) as tier:
        assert tier.remove([chunk.key for chunk in chunks(COUNT)[100:200]]) == 100
    return tmp_path / "kv"


def collected(*arguments: object) -> Any:
    done = run("gc", *map(str, arguments), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_a_file_becomes_as_small_as_its_values(path: Path) -> None:
    size = (path / "data.mdb").stat().st_size
    told = collected(path)
    assert told["tier"] == f"disk:{path}"
    assert told["evicted"] == 0
    assert told["before"]["values"] == told["after"]["values"] == 300
    assert told["before"]["file"] == size
    assert told["after"]["file"] == (path / "data.mdb").stat().st_size < 0.9 * size
    assert collected(path)["after"] == told["after"]


def test_a_capacity_evicts_what_was_used_the_longest_ago(path: Path) -> None:
    wanted = chunks(COUNT)
    with DiskTier(path, 8 * MIB) as tier, tier.read([wanted[0].key]):
        pass  # a use of the oldest value
    told = collected(path, "--capacity", "1MiB")
    assert (path / "data.mdb").stat().st_size <= MIB
    assert told["evicted"] == 300 - told["after"]["values"]
    assert 50 < told["after"]["values"] < 150
    with DiskTier(path, 8 * MIB) as tier:
        assert verify_tier(tier).chunks == told["after"]["values"]
        assert tier.contains([wanted[0].key, *(chunk.key for chunk in wanted[-40:])]) == 41
        assert not tier.contains([wanted[1].key])
    assert collected(path, "--capacity", "1MiB")["evicted"] == 0


def test_a_store_that_is_larger_than_the_default_capacity_keeps_its_values(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A capacity that is only that of the command does not evict."""
    monkeypatch.setattr("kvpool.cli._tiers.places.DEFAULT_CAPACITY", MIB)
    assert CliRunner().invoke(app, ["gc", str(path)]).exit_code == 0
    assert CliRunner().invoke(app, ["fsck", str(path), "--repair"]).exit_code == 0
    with DiskTier(path, 8 * MIB) as tier:
        assert tier.stats().values == 300


def test_a_store_in_use_is_not_compacted(path: Path) -> None:
    def use(say: Callable[[str], None]) -> None:
        with DiskTier(path, 8 * MIB) as tier:
            say("open")
            while tier.stats().values:
                pass

    with Child(use) as child:
        assert child.line() == "open", child.rest()
        done = run("gc", str(path), "--capacity", "1MiB")
        assert done.returncode == 1
        assert "cannot be compacted: it is in use" in done.stderr
        rows = {words[0]: words[1:] for line in done.stdout.splitlines() if (words := line.split())}
        assert rows["values"][0] == "300"
        assert int(rows["values"][1]) < 150
        assert rows["file"][:2] == rows["file"][2:]
        child.kill()
    assert collected(path)["after"]["values"] == int(rows["values"][1])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("memory:",), "'memory:' is not a tier on a disk"),
        (("redis://user:secret@host/0",), "'redis://host/0' is not a tier on a disk"),
        (("/no/such/place",), "there is no directory"),
        (("PATH", "--capacity", "much"), "much"),
        (("PATH", "--capacity", "1KiB"), "at least 1.0 MiB"),
    ],
)
def test_bad_usage(path: Path, arguments: tuple[str, ...], text: str) -> None:
    before = (path / "data.mdb").read_bytes()
    words = [str(path) if word == "PATH" else word for word in arguments]
    done = run("gc", *words, COLUMNS="200", TERM="dumb")
    assert (done.returncode, done.stdout) == (2, "")
    assert text in " ".join(done.stderr.split())
    assert "secret" not in done.stderr
    assert (path / "data.mdb").read_bytes() == before


def test_the_table(path: Path) -> None:
    done = terminal.run("gc", str(path), COLUMNS="60")
    words = [line.split() for line in done.stdout.splitlines() if line.split()]
    assert [words[0], words[2]] == [["before", "after"], ["values", "300", "300"]]
    assert max(map(len, done.stdout.splitlines())) <= 60
