"""Entries that are saved to files of safetensors, and loaded from them."""

from __future__ import annotations

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


def test_without_the_package(
    manager: KVCacheManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    entry = new_entry(manager, 1, KVLayout(1, 1, 8), 4)
    with pytest.raises(MissingExtraError, match=r'install "kvpool\[safetensors\]"'):
        entry.save(tmp_path / "a")
