from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kvpool.entry import KVCacheEntry
from kvpool.layout import DTYPES, KVLayout
from kvpool.pool import MemoryPool
from kvpool.replay._content import Span, TokenTape, request_spans, split
from kvpool.replay._request import TraceRequest

LAYOUT = KVLayout(2, 3, 4, "int8")
TAPE = TokenTape(LAYOUT, budget=1)
SOME_SPANS = st.lists(st.builds(Span, st.integers(0, 10**6), st.integers(0, 700)), max_size=5)


def expected(spans: list[Span]) -> NDArray[Any]:
    """Keys and values, position by position."""
    keys, values = TAPE.tokens([Span(0, TAPE.period)])
    positions = [(span.start + at) % TAPE.period for span in spans for at in range(span.length)]
    return np.stack([keys[:, :, positions], values[:, :, positions]])


@given(SOME_SPANS.filter(lambda spans: any(span.length for span in spans)))
def test_tokens_at_once_and_one_by_one_are_those_of_the_tape(spans: list[Span]) -> None:
    whole = expected(spans)
    assert np.array_equal(TAPE.tokens(spans), whole)
    singles = list(TAPE.singles(spans))
    assert np.array_equal(np.concatenate([np.stack(pair) for pair in singles], axis=3), whole)


@given(SOME_SPANS, st.integers(0, 2000))
def test_split(spans: list[Span], count: int) -> None:
    head, tail = split(spans, count)
    positions = [span.start + at for span in spans for at in range(span.length)]
    assert [span.start + at for span in head for at in range(span.length)] == positions[:count]
    assert [span.start + at for span in tail for at in range(span.length)] == positions[count:]


def test_one_run_is_not_copied() -> None:
    keys, values = TAPE.tokens([Span(TAPE.period - 1, TAPE.period)])
    again, _ = TAPE.tokens([Span(TAPE.period - 1, 2)])
    assert np.shares_memory(keys, again)
    assert not np.shares_memory(keys, values)


def test_tapes_of_one_layout_are_equal_and_odd() -> None:
    again = TokenTape(LAYOUT, budget=1)
    assert np.array_equal(again.tokens([Span(0, 500)]), TAPE.tokens([Span(0, 500)]))
    for budget in (1, 10**5, 10**6, 10**9):
        assert TokenTape(KVLayout(1, 1, 8), budget).period % 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [0, 1, 251, 502, 1337])
def test_what_was_written_is_found_to_be_so(dtype: str, count: int) -> None:
    layout = KVLayout(2, 2, 8, dtype)
    tape = TokenTape(layout, budget=1)
    entry = KVCacheEntry.create(MemoryPool(1 << 20, "numpy"), layout, 1400, "s")
    spans = [Span(250, count)]
    if count:
        entry.extend(*tape.tokens(spans))
    assert tape.faults(entry, spans) == []
    assert len(tape.faults(entry, [Span(250, count + 1)])) == 8
    assert count == 0 or len(tape.faults(entry, [Span(249, count)])) == 8


def test_requests_without_blocks_write_one_run_each_and_neighbours_differ() -> None:
    first, second = (request_spans(TraceRequest(0, 30, 5), number, None) for number in (1, 2))
    (prompt,), (generated,) = first
    assert generated == (prompt.start + 30, 5)
    assert abs(second[0][0].start - prompt.start) % TAPE.period > 35


def test_blocks_alone_say_what_a_prompt_is() -> None:
    request = TraceRequest(0, 1300, 20, (4, 5, 9))
    prompt, generated = request_spans(request, 1, 512)
    assert prompt == [Span(4 * 512, 1024), Span(9 * 512, 276)]
    again, generated_again = request_spans(request, 2, 512)
    assert again == prompt
    assert generated_again != generated
