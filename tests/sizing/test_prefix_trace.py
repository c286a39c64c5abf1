"""The tree of blocks of a trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from kvpool.replay import BrokenLineError, TraceReader
from kvpool.sizing import PrefixTrace, SizingError, _prefix_trace
from tests.support.prefix_traces import prompts, requests_of

DATA = Path(__file__).parents[1] / "data"


@given(prompts.filter(any))
def test_a_block_is_a_prefix(paths: list[tuple[int, ...]]) -> None:
    trace = PrefixTrace.from_requests(requests_of(paths), 16)
    prefixes: dict[int, tuple[int, ...]] = {}
    for path, start, end in zip(paths, trace.starts[:-1], trace.starts[1:], strict=True):
        blocks = trace.references[start:end].tolist()
        assert len(blocks) == len(path)
        assert trace.positions[start:end].tolist() == list(range(len(path)))
        for at, block in enumerate(blocks):
            assert prefixes.setdefault(block, path[: at + 1]) == path[: at + 1]
            assert trace.parents[block] == (blocks[at - 1] if at else -1)
    assert len(set(prefixes.values())) == len(prefixes) == trace.block_count
    assert trace.longest == max(map(len, paths))
    assert (trace.request_count, trace.reference_count) == (len(paths), sum(map(len, paths)))


@given(prompts.filter(any))
def test_a_selection_is_the_trace_of_those_requests(paths: list[tuple[int, ...]]) -> None:
    requests = requests_of(paths)
    chosen = np.arange(len(paths)) % 2 == 0
    part = PrefixTrace.from_requests(requests, 16).select(chosen)
    if not any(paths[::2]):
        assert part.reference_count == 0
        return
    wanted = PrefixTrace.from_requests(requests[::2], 16)
    assert part.starts.tolist() == wanted.starts.tolist()
    assert part.arrivals.tolist() == wanted.arrivals.tolist()
    # the numbers of blocks may differ, but not which of them are the same and which comes before
    pairs = set(zip(part.references.tolist(), wanted.references.tolist(), strict=True))
    assert len(pairs) == part.block_count == wanted.block_count
    number = dict(pairs) | {-1: -1}
    for block in range(part.block_count):
        assert number[int(part.parents[block])] == wanted.parents[number[block]]


def test_ids_may_have_any_size() -> None:
    trace = PrefixTrace.from_requests(requests_of([(10**30, 2**64), (10**30, 2**64 + 1)]), 16)
    assert trace.references.tolist() == [0, 1, 0, 2]


def test_a_file_is_read() -> None:
    with TraceReader(DATA / "mooncake_small.jsonl") as reader:
        trace = PrefixTrace.read(reader)
    assert trace.block_tokens == 512
    assert trace.request_count > 1


def test_a_trace_without_ids_is_refused() -> None:
    with (
        TraceReader(DATA / "azure_small.csv") as reader,
        pytest.raises(SizingError, match=r"azure_small\.csv .* no ids of blocks .* azure"),
    ):
        PrefixTrace.read(reader)


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    good = '{"timestamp": 0, "input_length": 600, "output_length": 1, "hash_ids": [1, 2]}\n'
    file.write_text(good + good.replace("[1, 2]", '[1, "x"]'), encoding="utf-8")
    with TraceReader(file) as reader, pytest.raises(BrokenLineError, match=r"t\.jsonl:2: "):
        PrefixTrace.read(reader)


def test_a_trace_without_blocks_is_refused() -> None:
    with pytest.raises(SizingError, match="no block is in the prompts of these 2 requests"):
        PrefixTrace.from_requests(requests_of([(), ()]), 16)


@pytest.mark.parametrize("tokens", [0, -1, 1.5, True, "16", None])
def test_a_bad_number_of_tokens_is_refused(tokens: Any) -> None:
    with pytest.raises(SizingError, match="block_tokens"):
        PrefixTrace.from_requests(requests_of([(1,)]), tokens)


@pytest.mark.parametrize("limit", ["MAX_BLOCKS", "MAX_REFERENCES"])
def test_a_trace_that_does_not_end_is_refused(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(_prefix_trace, limit, 1000)

    def endless() -> Any:
        number = 0
        while True:
            yield from requests_of([(number, number + 1)])
            number += 1

    with pytest.raises(SizingError, match=r"first [\d,]+ requests .* \(--max-requests\)"):
        PrefixTrace.from_requests(endless(), 16)
