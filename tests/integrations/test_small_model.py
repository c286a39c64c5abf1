"""The small model is converted once, checked, and made anew where its directory is damaged."""

from __future__ import annotations

import importlib
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from kvpool.errors import KVPoolError
from kvpool.integrations import small_model
from tests.support import needs

pytestmark = pytest.mark.transformers

SOURCE = "a source"


class Maker:
    """Makes a directory of two files once, and counts."""

    def __init__(self, made_once: Any, folder: Path) -> None:
        self.folder = folder
        self.made = self.waits = 0
        self.error: Exception | None = None
        self._made_once = made_once

    def make(self, part: Path) -> None:
        self.made += 1
        (part / "weights").write_bytes(bytes(range(200)))
        if self.error is not None:
            raise self.error
        (part / "config").write_text("{}", encoding="utf-8")

    def wait(self) -> None:
        self.waits += 1

    def __call__(self, source: str = SOURCE) -> None:
        self._made_once(self.folder, source, self.make, self.wait)

    def names(self) -> set[str]:
        return {path.name for path in self.folder.parent.iterdir()}


@pytest.fixture
def folders() -> Any:
    needs.transformers()
    return importlib.import_module("kvpool.integrations._chat.model_folder")


@pytest.fixture
def maker(folders: Any, tmp_path: Path) -> Maker:
    return Maker(folders.made_once, tmp_path / "models" / "one")


# -- directories that are made once ------------------------------------------------------


def test_a_directory_is_made_once(maker: Maker) -> None:
    maker()
    maker()
    assert (maker.made, maker.waits) == (1, 0)
    assert maker.names() == {"one", "one.lock"}
    assert (maker.folder / "weights").read_bytes() == bytes(range(200))


@pytest.mark.parametrize("damage", ["bit", "short", "lost", "more", "manifest", "all", "text"])
def test_a_damaged_directory_is_made_anew(folders: Any, maker: Maker, damage: str) -> None:
    maker()
    weights, manifest = maker.folder / "weights", maker.folder / folders.MANIFEST
    data = weights.read_bytes()
    act = {
        "bit": lambda: weights.write_bytes(data[:9] + b"\0" + data[10:]),
        "short": lambda: weights.write_bytes(data[:-1]),
        "lost": weights.unlink,
        "more": (maker.folder / "another").touch,
        "manifest": manifest.unlink,
        "all": lambda: shutil.rmtree(maker.folder),
        "text": lambda: manifest.write_text("{", encoding="utf-8"),
    }[damage]
    act()
    assert not folders.is_whole(maker.folder, SOURCE)
    maker()
    assert maker.made == 2
    assert folders.is_whole(maker.folder, SOURCE)
    assert weights.read_bytes() == data


def test_what_was_made_from_something_else_is_made_anew(folders: Any, maker: Maker) -> None:
    maker("version 1")
    maker("version 2")
    assert maker.made == 2
    assert folders.is_whole(maker.folder, "version 2")


def test_a_failure_leaves_nothing_behind(maker: Maker) -> None:
    maker.error = OSError("the disk is full")
    with pytest.raises(OSError, match="the disk is full"):
        maker()
    assert maker.names() == {"one.lock"}
    maker.error = None
    maker()
    assert maker.names() == {"one", "one.lock"}


def test_what_an_ended_process_left_is_removed(maker: Maker) -> None:
    left = maker.folder.with_name("one.part-left") / "one"
    left.mkdir(parents=True)
    (left / "weights").touch()
    maker()
    assert maker.names() == {"one", "one.lock"}


def test_two_at_once_make_one(folders: Any, tmp_path: Path) -> None:
    first, second = (Maker(folders.made_once, tmp_path / "one") for _ in range(2))
    has_begun, is_waiting = threading.Event(), threading.Event()

    def make(part: Path) -> None:
        has_begun.set()
        assert is_waiting.wait(60)
        first.make(part)

    def begin() -> None:
        folders.made_once(first.folder, SOURCE, make, first.wait)

    thread = threading.Thread(target=begin)
    thread.start()
    assert has_begun.wait(60)
    folders.made_once(second.folder, SOURCE, second.make, is_waiting.set)
    thread.join()
    assert (first.made, second.made) == (1, 0)


def test_the_cache_directory(folders: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KVPOOL_CACHE", str(tmp_path))
    assert folders.cache_directory() == tmp_path
    monkeypatch.setenv("KVPOOL_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert folders.cache_directory().name in {"kvpool", "Cache"}


# -- the small model ---------------------------------------------------------------------


def converted(file: Path | None, tell: Any = print) -> Path:
    needs.transformers()
    gguf = importlib.import_module("kvpool.integrations._chat.gguf")
    found: Path = gguf.converted("a-model", file, "pip install it", tell)
    return found


def test_a_model_that_is_not_installed() -> None:
    with pytest.raises(KVPoolError, match="a-model is not installed; install it with `pip"):
        converted(None)


def test_a_file_that_is_no_model_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KVPOOL_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "damaged.gguf"
    file.write_bytes(b"GGUF" + bytes(100))
    told: list[str] = []
    with pytest.raises(KVPoolError, match=r"cannot convert .*damaged\.gguf: "):
        converted(file, told.append)
    assert told == ["converting damaged once, which takes about a minute: 1 of 3, the tokenizer"]
    assert [path.name for path in (tmp_path / "cache" / "models").iterdir()] == ["a-model.lock"]


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "a-file"
    file.touch()
    monkeypatch.setenv("KVPOOL_CACHE", str(file))
    with pytest.raises(KVPoolError, match=r"cannot keep a-model in .*; set KVPOOL_CACHE"):
        converted(file)


def test_the_small_model_is_found_again(small_model_directory: Path) -> None:
    told: list[str] = []
    assert small_model.small_model_directory(told.append) == small_model_directory
    assert told == []
    names = {path.name for path in small_model_directory.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "kvpool.json"} <= names
