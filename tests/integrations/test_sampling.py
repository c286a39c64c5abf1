"""`sampled` and `sampled_weights`: files that differ where they look have other hashes."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvpool.integrations._sampling import sampled, sampled_weights


@pytest.mark.parametrize("size", [0, 1, 100_000, 64 << 16, (64 << 16) + 1, 20_000_003])
def test_the_size_and_both_ends_tell(tmp_path: Path, size: int) -> None:
    file = tmp_path / "weights"
    content = bytearray(size)
    file.write_bytes(content)
    hashes = {sampled(file)}
    for place in {0, size - 1, size // 63 + 100} if size > 200 else ():
        content[place] = 1
        file.write_bytes(content)
        hashes.add(sampled(file))
        content[place] = 0
    file.write_bytes(content + b"x")
    hashes.add(sampled(file))
    assert len(hashes) == (5 if size > 200 else 2)


def test_what_is_between_samples_does_not_tell(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    content = bytearray(1 << 20)
    file.write_bytes(content)
    before = sampled(file, 2)
    content[1 << 19] = 1
    file.write_bytes(content)
    assert sampled(file, 2) == before


def test_weights_are_told_apart_by_names_and_contents(tmp_path: Path) -> None:
    assert sampled_weights(tmp_path / "absent") is None
    (tmp_path / "model.safetensors").write_bytes(bytes(3 << 20))
    first = sampled_weights(tmp_path)
    (tmp_path / "README.md").write_text("not a part of the weights", encoding="utf-8")
    assert sampled_weights(tmp_path) == first
    (tmp_path / "model.safetensors").write_bytes(bytes((3 << 20) - 1) + b"x")
    second = sampled_weights(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    assert len({first, second, sampled_weights(tmp_path)}) == 3
