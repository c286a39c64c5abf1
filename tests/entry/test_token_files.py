"""Entries that are saved to files of safetensors, and loaded from them."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import pytest

from kvpool.entry import KVCacheEntry
from kvpool.errors import (
    ContextOverflowError,
    EntryRemovedError,
    InvalidTokensError,
    MissingExtraError,
    TokenFileError,
)
from kvpool.layout import KVLayout, Packing
from kvpool.manager import KVCacheManager
from tests.support import needs
from tests.support.injection import every_place
from tests.support.sessions import key_of, random_tokens


def new_entry(manager: KVCacheManager, number: int, layout: KVLayout, tokens: int) -> KVCacheEntry:
    entry = manager.create_cache_entry(key_of(number), 64, layout=layout)
    if tokens:
        entry.extend(*random_tokens(layout, tokens, number))
    return entry


@pytest.fixture
def manager(backend: str) -> KVCacheManager:
    return KVCacheManager("4MiB", backend, receipts=False)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("packing", ["head", "token"])
def test_what_is_loaded_is_what_was_saved(
    manager: KVCacheManager, dtype: str, packing: Packing, tmp_path: Path
) -> None:
    needs.safetensors()
    layout = KVLayout(2, 2, 16, dtype, packing)
    entry = new_entry(manager, 1, layout, 20)
    entry.save(tmp_path / "a.safetensors")
    other = new_entry(manager, 2, KVLayout(2, 2, 16, dtype), 3)
    assert other.load(str(tmp_path / "a.safetensors")) == 23
    assert other.keys()[:, :, 3:].tobytes() == entry.keys().tobytes()
    assert other.values()[:, :, 3:].tobytes() == entry.values().tobytes()
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]
    assert not entry.block.is_leased
    manager.check_integrity()


def test_an_entry_without_tokens(manager: KVCacheManager, tmp_path: Path) -> None:
    needs.safetensors()
    entry = new_entry(manager, 1, KVLayout(1, 1, 8), 0)
    entry.save(tmp_path / "empty")
    with pytest.raises(InvalidTokensError):
        new_entry(manager, 2, KVLayout(1, 1, 8), 0).load(tmp_path / "empty")


def test_what_does_not_fit(manager: KVCacheManager, tmp_path: Path) -> None:
    needs.safetensors()
    new_entry(manager, 1, KVLayout(1, 1, 8), 40).save(tmp_path / "a")
    other = new_entry(manager, 2, KVLayout(1, 2, 8), 5)
    with pytest.raises(InvalidTokensError):
        other.load(tmp_path / "a")
    full = new_entry(manager, 3, KVLayout(1, 1, 8), 40)
    with pytest.raises(ContextOverflowError):
        full.load(tmp_path / "a")
    assert (other.token_count, full.token_count) == (5, 40)


def test_files_that_cannot_be_used(manager: KVCacheManager, tmp_path: Path) -> None:
    needs.safetensors()
    entry = new_entry(manager, 1, KVLayout(1, 1, 8), 4)
    (tmp_path / "text").write_text("no tensors", encoding="utf-8")
    for file in (tmp_path / "nowhere", tmp_path / "text", tmp_path):
        with pytest.raises(TokenFileError, match=f"cannot read {file}"):
            entry.load(file)
    with pytest.raises(TokenFileError, match="cannot write"):
        entry.save(tmp_path / "no" / "folder")
    entry.save(tmp_path / "a")
    manager.remove_cache_entry(key_of(1))
    with pytest.raises(EntryRemovedError):
        entry.save(tmp_path / "a")
    with pytest.raises(EntryRemovedError):
        entry.load(tmp_path / "a")


def test_names_that_are_odd(manager: KVCacheManager, tmp_path: Path) -> None:
    needs.safetensors()
    entry = new_entry(manager, 1, KVLayout(1, 1, 8), 4)
    longest = tmp_path / ("x" * 255)
    entry.save(longest)
    assert entry.load(longest) == 8
    for odd in ("a\0b", "a\ud800b"):
        with pytest.raises(TokenFileError, match="cannot write"):
            entry.save(tmp_path / odd)
        with pytest.raises(TokenFileError, match="cannot read"):
            entry.load(tmp_path / odd)
    for odd in ("", "/"):
        with pytest.raises(TokenFileError, match="cannot write"):
            entry.save(odd)
    assert list(tmp_path.iterdir()) == [longest]


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E8M0", "U8", "BOOL"])
def test_a_dtype_that_no_layout_has(manager: KVCacheManager, dtype: str, tmp_path: Path) -> None:
    needs.safetensors()
    tensor = {"dtype": dtype, "shape": [1, 1, 2, 8]}
    header = json.dumps(
        {"keys": tensor | {"data_offsets": [0, 16]}, "values": tensor | {"data_offsets": [16, 32]}}
    ).encode()
    (tmp_path / "a").write_bytes(len(header).to_bytes(8, "little") + header + bytes(32))
    entry = new_entry(manager, 1, KVLayout(1, 1, 8), 4)
    with pytest.raises((TokenFileError, InvalidTokensError)):
        entry.load(tmp_path / "a")
    assert entry.token_count == 4


@pytest.mark.usefixtures("views_may_be_interrupted")
def test_a_file_is_whole_or_as_before_after_an_interrupt(tmp_path: Path) -> None:
    needs.safetensors()
    manager = KVCacheManager("4MiB", "numpy", receipts=False)
    entry = new_entry(manager, 1, KVLayout(1, 1, 8), 4)
    file = tmp_path / "a"
    for injection in every_place("interrupt", in_libraries=True):
        file.write_bytes(b"before")
        with contextlib.suppress(KeyboardInterrupt), injection:
            entry.save(file)
        if file.read_bytes() != b"before":
            assert entry.load(file) == 8
            entry.truncate(4)
        assert list(tmp_path.iterdir()) == [file], injection.where
        assert not entry.block.is_leased


def test_without_the_package(
    manager: KVCacheManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    entry = new_entry(manager, 1, KVLayout(1, 1, 8), 4)
    with pytest.raises(MissingExtraError, match=r'install "kvpool\[safetensors\]"'):
        entry.save(tmp_path / "a")
