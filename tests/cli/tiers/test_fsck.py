"""`kvpool fsck`: damage of all kinds, found and removed; what is right stays."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvpool.tiers import open_tier, verify_tier
from kvpool.tiers.disk import DiskTier
from tests.support.called import run
from tests.support.forked import Child
from tests.support.mounts import run_on
from tests.support.stored_chunks import chunks, fill, store, value_of, with_format
from tests.support.terminal import in_terminal

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="rights, links and forks")

CHUNKS = chunks(30)


def fsck(*arguments: object, **variables: str) -> tuple[int, Any]:
    """Run the command; return its exit code, and what it tells as JSON."""
    done = run("fsck", *map(str, arguments), "--json", **variables)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def put(path: Path, key: bytes, value: bytes) -> None:
    with DiskTier(path, 8 << 20) as tier:
        tier.remove([key])
        assert tier.write([(key, [value])]) == 1


def state_of(folder: Path) -> dict[str, bytes]:
    """Return the content of the files whose content says something."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "lock.mdb"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A tier with 20 chunks."""
    store(tmp_path / "kv")
    return tmp_path / "kv"


def test_a_clean_tier(path: Path) -> None:
    before = state_of(path)
    done = run("fsck", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[:4] == ["tier", f"disk:{path}", "values", "20,"]
    assert "20 of acme/model-7b" in done.stdout
    assert done.stdout.split()[-2:] == ["verdict", "ok"]
    assert state_of(path) == before


def test_a_look_is_not_a_use(path: Path) -> None:
    """Else the tier would evict in the order of the keys after it."""
    assert fsck(path)[0] == fsck(path, "--repair")[0] == 0
    with DiskTier(path, 8 << 20) as tier:
        assert tier.evict(tier.stats().nbytes or 0) == 0
        tier.evict(90_000)
        kept = set(tier.keys())
    assert kept == {chunk.key for chunk in CHUNKS[20 - len(kept) : 20]}
    assert 2 < len(kept) < 18


def test_what_is_wrong_is_told_and_removed(path: Path) -> None:
    key = CHUNKS[3].key
    damaged = bytearray(value_of(CHUNKS[3]))
    damaged[-1] ^= 1
    put(path, key, bytes(damaged))
    put(path, CHUNKS[4].key, value_of(CHUNKS[4])[:-64])
    code, told = fsck(path)
    assert (code, told["clean"], told["wrong"], told["chunks"]) == (1, False, 2, 18)
    assert told["reasons"] == {"digest": 1, "length": 1}
    finding = next(one for one in told["findings"] if one["reason"] == "digest")
    assert finding == {
        "key": f"c/{key[2:].hex()}",
        "bytes": len(damaged),
        "reason": "digest",
        "text": "the value is damaged: its digest is another one",
        "wrong": True,
    }
    shown = run("fsck", str(path), "--repair")
    assert shown.returncode == 1
    assert f"c/{key[2:].hex()[:16]}  digest, " in shown.stdout
    assert shown.stdout.split()[-4:] == ["removed", "2", "verdict", "FAILED"]
    code, told = fsck(path)
    assert (code, told["chunks"], told["values"]) == (0, 18, 18)


def test_a_newer_format_is_not_judged_and_stays(path: Path) -> None:
    put(path, CHUNKS[0].key, with_format(value_of(CHUNKS[0]), 7))
    code, told = fsck(path, "--repair")
    assert (code, told["wrong"], told["unknown"], told["removed"]) == (1, 0, 1, 0)
    assert "has the format 7" in told["findings"][0]["text"]
    assert "not all values could be judged" in run("fsck", str(path)).stdout
    with DiskTier(path, 8 << 20) as tier:
        assert tier.contains([CHUNKS[0].key])


def test_the_codec_of_the_url_reads_what_is_encrypted(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("11" * 32)
    codec = f"zstd,aes-gcm;key={key}"
    store(tmp_path / "kv", codec=codec)
    assert fsck(f"disk:{tmp_path}/kv?codec={codec}")[0] == 0
    code, told = fsck(tmp_path / "kv", "--repair")
    assert (code, told["reasons"], told["removed"]) == (1, {"codec": 20}, 0)
    key.write_text("22" * 32)
    code, told = fsck(f"disk:{tmp_path}/kv?codec={codec}", "--repair")
    assert (code, told["reasons"], told["removed"]) == (1, {"key": 20}, 0)
    assert "codec=aes-gcm;key=FILE" in run("fsck", str(tmp_path / "kv"), COLUMNS="200").stdout


def test_flipped_bytes_anywhere(path: Path) -> None:
    """Either it is found, or nothing that anyone reads has changed."""
    original = (path / "data.mdb").read_bytes()
    draws, codes = random.Random(0), []
    for _ in range(40):
        at = draws.randrange(len(original))
        damaged = bytearray(original)
        damaged[at] ^= 1 << draws.randrange(8)
        shutil.rmtree(path)
        path.mkdir(mode=0o700)
        (path / "data.mdb").write_bytes(damaged)
        (path / "data.mdb").chmod(0o600)
        code, told = fsck(path)
        codes.append(code)
        assert (path / "data.mdb").read_bytes() == damaged, at
        if code == 0:
            assert told["chunks"] == 20, at
            continue
        assert told["wrong"] + told["unknown"] > 0 or told["structure"], at
        run("fsck", str(path), "--repair")
        code, again = fsck(path)
        assert again["unknown"] == told["unknown"], at
        assert code == (1 if told["unknown"] else 0), at
        assert again["chunks"] == told["chunks"], at
    assert set(codes) == {0, 1}


def test_a_file_that_is_cut(path: Path) -> None:
    os.truncate(path / "data.mdb", (path / "data.mdb").stat().st_size // 2)
    cut = (path / "data.mdb").read_bytes()
    code, told = fsck(path)
    assert (code, told["values"]) == (1, 0)
    assert "is damaged" in told["structure"]
    assert state_of(path)["data.mdb"] == cut
    shown = run("fsck", str(path), "--repair")
    assert shown.returncode == 1
    assert "the tier is empty now" in shown.stdout
    assert (path / "data.mdb.damaged").read_bytes() == cut
    assert fsck(path)[0] == 0


READONLY_DISK = """
import subprocess, sys
from pathlib import Path
from tests.support.stored_chunks import store
from kvpool.cli import app
from typer.testing import CliRunner

path = Path(sys.argv[1], "kv")
store(path)
subprocess.run(["mount", "-o", "remount,ro", sys.argv[1]], check=True)
done = CliRunner().invoke(app, ["fsck", str(path)])
print(done.exit_code, "20 right" in done.stdout)
"""


def test_a_readonly_disk(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    program = f"import sys; sys.path.append({str(root)!r})\n{READONLY_DISK}"
    assert run_on("tmpfs -o size=8m", tmp_path, program) == ["0 True"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs another user")
def test_a_directory_that_may_be_read_alone(path: Path) -> None:
    """The files are those of the user, and the directory takes no new ones."""
    for one in (path, *path.iterdir()):
        os.chown(one, 65534, 65534)
    for folder in path.parents[:-1]:
        if folder.owner() == "root":
            with contextlib.suppress(OSError):
                folder.chmod(folder.stat().st_mode | 0o055)
    path.chmod(0o500)

    def look(say: Callable[[str], None]) -> None:
        os.setgid(65534)
        os.setuid(65534)
        with open_tier(f"disk:{path}?readonly=yes&capacity=8MiB") as tier:
            say(str(verify_tier(tier).chunks))

    with Child(look) as child:
        assert child.line() == "20", child.rest()


def test_a_tier_in_use_by_another_process(path: Path) -> None:
    """It goes on writing, and what is wrong is removed under its eyes."""
    put(path, CHUNKS[5].key, b"wrong" * 100)

    def write(say: Callable[[str], None]) -> None:
        with DiskTier(path, 8 << 20) as tier:
            say("open")
            for _ in range(10**6):
                fill(tier, CHUNKS[20:])
                tier.remove([chunk.key for chunk in CHUNKS[20:]])

    with Child(write) as child:
        assert child.line() == "open", child.rest()
        for _ in range(5):
            code, told = fsck(path)
            assert (code, told["wrong"]) == (1, 1)
        code, told = fsck(path, "--repair")
        assert (code, told["removed"]) == (1, 1)
        code, told = fsck(path)
        assert (code, told["wrong"]) == (0, 0)
        child.kill()
    assert fsck(path)[1]["chunks"] >= 19


@pytest.mark.parametrize("name", ["kv", "data.mdb"])
def test_no_link_is_followed(path: Path, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    if name == "kv":
        path.rename(outside)
        path.symlink_to(outside)
    else:
        (path / name).rename(outside)
        (path / name).symlink_to(outside)
    done = run("fsck", str(path), "--repair")
    assert (done.returncode, done.stdout) == (1, "")
    assert "link" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "Missing argument"),
        (("/no/such/place",), "there is no directory /no/such/place"),
        (("nowhere",), "there is no directory 'nowhere'"),
        (("disk:/no/such/place",), "there is no directory /no/such/place"),
        (("disk://host/path",), "names the host 'host'"),
        (("nothing://place",), "unknown tier 'nothing'; available: az, disk"),
        (("EMPTY",), "is not a tier: it has no file data.mdb"),
        (("FULL?",), "there is no directory"),
        (("disk:FULL?size=1",), "no option 'size'"),
        (("disk:FULL?codec=rot13",), "rot13"),
    ],
)
def test_what_is_not_a_tier_is_bad_usage(
    path: Path, tmp_path: Path, arguments: tuple[str, ...], text: str
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir(mode=0o700)
    words = [word.replace("EMPTY", str(empty)).replace("FULL", str(path)) for word in arguments]
    done = run("fsck", *words, COLUMNS="300", TERM="dumb")
    assert (done.returncode, done.stdout) == (2, "")
    assert text in " ".join(done.stderr.split())
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize("name", ["a b", "a%20b", "a?b=c", "a#b", "disk:x", "äöü"])
def test_a_path_may_have_any_characters(tmp_path: Path, name: str) -> None:
    store(tmp_path / name, 2)
    assert fsck(tmp_path / name)[1]["chunks"] == 2


def test_keys_and_models_cannot_do_something_to_the_terminal(path: Path) -> None:
    put(path, b"\x1b[2J", b"value")
    done = run("fsck", str(path))
    assert done.returncode == 1
    assert "\x1b" not in done.stdout
    assert "1b5b324a" in done.stdout


@pytest.mark.parametrize("columns", [60, 80])
def test_nothing_is_wider_than_the_terminal(path: Path, columns: int) -> None:
    put(path, CHUNKS[0].key, value_of(CHUNKS[1]))
    done = run("fsck", str(path), COLUMNS=str(columns))
    assert max(map(len, done.stdout.splitlines())) <= columns
    assert "…" not in done.stdout


def test_a_bar_in_a_terminal_and_no_colour_without(path: Path) -> None:
    with in_terminal("fsck", str(path), NO_COLOR="1") as (process, chunks_of_text):
        text = "".join(chunks_of_text)
        assert process.wait() == 0
    assert "values" in text
    assert "\x1b[3" not in text
    with in_terminal("fsck", str(path)) as (process, chunks_of_text):
        assert "\x1b[32mok" in "".join(chunks_of_text)
        assert process.wait() == 0
