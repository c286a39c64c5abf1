"""`sampled`: files that differ where it looks have other hashes."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvpool.integrations._sampling import sampled


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
