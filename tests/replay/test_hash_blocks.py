"""Traces whose hash blocks have other sizes, or that name none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kvpool.errors import InvalidSizeError
from kvpool.layout import KVLayout
from kvpool.replay import BrokenLineError, Replay, TraceError, TraceFormat, TraceReader
from kvpool.replay._hash_blocks import infer_hash_block_tokens

LAYOUT = KVLayout(1, 1, 8, "float32")


def row(tokens: int, ids: list[int] | None, when: float = 0, **more: Any) -> str:
    fields = {"timestamp": when, "input_length": tokens, "output_length": 5, **more}
    return json.dumps(fields if ids is None else fields | {"hash_ids": ids})


def rows(size: int, *lengths: int) -> list[str]:
    return [row(length, list(range(-(-length // size)))) for length in lengths]


def write(folder: Path, lines: list[str]) -> Path:
    path = folder / "trace.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("lines", "size"),
    [
        (rows(512, 6000, 700), 512),
        (rows(16, 50, 70), 16),
        (rows(16, 5, 9), 512),  # one id each: any size fits
        (rows(64, 300, 1000), 64),
        (rows(1, 7), 1),
        (rows(24, *range(1, 400, 7)), 24),
        ([row(50, [1, 2]), *rows(16, 50, 70), "nonsense"], 16),  # the most lines decide
        ([row(50, None), row(70, None)], None),
        (["nonsense"], 512),
    ],
)
def test_the_size_of_blocks_is_inferred(tmp_path: Path, lines: list[str], size: int | None) -> None:
    assert infer_hash_block_tokens([line.encode() for line in lines]) == size
    with TraceReader(write(tmp_path, lines), TraceFormat.MOONCAKE, skip_bad=True) as reader:
        assert reader.hash_block_tokens == size
        assert sum(1 for _ in reader) + reader.skipped == len(lines)
        assert reader.skipped == sum(not line.startswith("{") for line in lines) + (
            lines[0] == row(50, [1, 2])
        )


def test_a_size_that_lines_do_not_tell_is_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path, rows(24, 40, 60))
    with pytest.raises(TraceError, match=r"any size from 20 to 29 .*--hash-block-tokens"):
        TraceReader(path)
    with TraceReader(path, hash_block_tokens=24) as reader:
        assert len(list(reader)) == 2


def test_a_size_that_is_given_decides(tmp_path: Path) -> None:
    path = write(tmp_path, rows(16, 50, 70))
    with (
        pytest.raises(BrokenLineError, match="4 ids, but 50 tokens are 2 blocks of 32"),
        TraceReader(path, hash_block_tokens=32) as reader,
    ):
        list(reader)
    with pytest.raises(TraceError, match="must be at least 1, not 0"):
        TraceReader(path, hash_block_tokens=0)


def test_lines_that_were_looked_at_are_read_once_and_in_order(tmp_path: Path) -> None:
    lines = rows(16, *range(1, 300))
    lines[200] = "nonsense"
    found: list[int] = []
    with TraceReader(write(tmp_path, lines)) as reader:
        requests = iter(reader)
        found += [next(requests).prompt_tokens for _ in range(200)]
        with pytest.raises(BrokenLineError, match=r"jsonl:201: "):
            next(requests)
    assert found == list(range(1, 201))


def test_blocks_of_sixteen_tokens_are_found_again(tmp_path: Path) -> None:
    lines = [row(50, [1, 2, 3, 4]), row(70, [1, 2, 3, 5, 6], 900)]
    with TraceReader(write(tmp_path, lines)) as reader:
        size = reader.hash_block_tokens
        with Replay(LAYOUT, 1 << 20, "numpy", hash_block_tokens=size, receipts=False) as replay:
            for request in reader:
                replay.serve(request)
            replay.finish()
            tally = replay.report().tally
    assert (tally.reused_tokens, tally.checksum_failures) == (48, 0)


@pytest.mark.parametrize("ids", [[2**32 + 1, 2**33 + 2], [2**64 + 1, 2**65 + 2], [2**64 - 1, 7]])
def test_ids_that_are_alike_in_their_lower_bits_differ(tmp_path: Path, ids: list[int]) -> None:
    lines = [row(1024, [1, 2]), row(1024, ids), row(1024, ids)]
    reused = []
    with (
        TraceReader(write(tmp_path, lines)) as reader,
        Replay(LAYOUT, 1 << 20, "numpy", hash_block_tokens=512, receipts=False) as replay,
    ):
        for request in reader:
            replay.serve(request)
            reused.append(replay.report().tally.reused_tokens)
        replay.finish()
        assert replay.report().tally.checksum_failures == 0
    assert reused == [0, 0, 1024]


def test_times_are_milliseconds_and_seconds_in_the_traces_of_chats(tmp_path: Path) -> None:
    path = write(tmp_path, [row(50, None, 61.5), row(50, None, 61.5, chat_id=7)])
    with TraceReader(path) as reader:
        assert [request.arrival for request in reader] == [0.0615, 61.5]


def test_a_token_larger_than_the_pool_is_refused() -> None:
    huge = KVLayout(10**30, 2, 64, "float16")
    with pytest.raises(InvalidSizeError, match=r"one token of .* more than the whole pool"):
        Replay(huge, 1 << 20, "numpy")
