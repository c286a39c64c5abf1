"""`kvpool sessions`: the sessions that a tier keeps by their keys."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from kvpool.cache_key import CacheKey
from kvpool.layout import KVLayout
from kvpool.prefix import Identity, token_bytes
from kvpool.tiers import TierStore
from tests.support import terminal
from tests.support.called import run

LAYOUT = KVLayout(2, 2, 16, "float16")
KEYS = [CacheKey("chat", 1), CacheKey("chat", "a\x1b[2J/b"), CacheKey("lab", "\N{SNOWMAN}")]


def fill(url: str, model: str = "acme/model-7b") -> None:
    with TierStore([url]) as store:
        for number, key in enumerate(KEYS):
            identity = Identity(model, "salt", LAYOUT)
            store.put_session(identity, key, token_bytes(range(1000 + number)))
        assert store.drain(60) == 0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    fill(f"disk:{tmp_path / 'kv'}?capacity=8MiB")
    return tmp_path / "kv"


def listed(*arguments: object) -> list[dict[str, Any]]:
    done = run("sessions", *map(str, arguments), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found: list[dict[str, Any]] = json.loads(done.stdout)["sessions"]
    return found


def test_the_newest_is_the_first(path: Path) -> None:
    found = listed(path)
    assert [one["key"] for one in found] == [str(key) for key in reversed(KEYS)]
    assert [one["tokens"] for one in found] == [1002, 1001, 1000]
    assert {one["model"] for one in found} == {"acme/model-7b"}
    assert found[0]["closed"].endswith("+00:00")
    assert found[0]["dtype"] == "float16"


def test_the_table_shows_what_a_key_is_made_of(path: Path) -> None:
    done = terminal.run("sessions", str(path), COLUMNS="60")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert "chat/a\\x1b[2J/b" in done.stdout
    assert "1,001" in done.stdout
    assert re.search(r"1,001 +(now|\d+ s ago)", done.stdout)
    assert max(map(len, done.stdout.splitlines())) <= 60


def test_a_session_is_forgotten_by_its_key(path: Path) -> None:
    done = run("sessions", str(path), "--remove", "chat/1")
    assert (done.returncode, done.stdout) == (0, "forgotten: 1 session chat/1\n")
    assert [one["tokens"] for one in listed(path)] == [1002, 1001]
    again = run("sessions", str(path), "--remove", "chat/1", COLUMNS="300")
    assert again.returncode == 2
    assert "has no session 'chat/1'" in " ".join(again.stderr.split())
    wrong = run("sessions", str(path), "--remove", "chat", COLUMNS="300")
    assert wrong.returncode == 2
    assert "'chat' is not the text of a key" in " ".join(wrong.stderr.split())


def test_a_tier_without_sessions_says_so(tmp_path: Path) -> None:
    with TierStore([f"disk:{tmp_path / 'kv'}?capacity=8MiB"]) as store:
        assert store.sessions() == []
    done = run("sessions", str(tmp_path / "kv"), COLUMNS="200")
    assert done.returncode == 0
    assert "keeps no session by its key" in done.stdout


def test_a_cipher_needs_its_key(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(bytes(range(32)))
    (tmp_path / "key").chmod(0o600)
    url = f"disk:{tmp_path / 'kv'}?codec=aes-gcm;key={tmp_path / 'key'}"
    fill(url + "&capacity=8MiB")
    assert len(listed(url)) == 3
    assert listed(tmp_path / "kv") == []
