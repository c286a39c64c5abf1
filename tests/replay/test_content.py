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
from kvpool.replay._content import Run, TokenTape, request_runs, split
from kvpool.replay._request import TraceRequest

LAYOUT = KVLayout(2, 3, 4, "int8")
TAPE = TokenTape(LAYOUT, budget=1)
SOME_RUNS = st.lists(st.builds(Run, st.integers(0, 10**6), st.integers(0, 700)), max_size=5)


def expected(runs: list[Run]) -> NDArray[Any]:
    """Keys and values, position by position."""
    keys, values = TAPE.tokens([Run(0, TAPE.period)])
    positions = [(run.start + at) % TAPE.period for run in runs for at in range(run.length)]
    return np.stack([keys[:, :, positions], values[:, :, positions]])


@given(SOME_RUNS.filter(lambda runs: any(run.length for run in runs)))
def test_tokens_at_once_and_one_by_one_are_those_of_the_tape(runs: list[Run]) -> None:
    whole = expected(runs)
    assert np.array_equal(TAPE.tokens(runs), whole)
    singles = list(TAPE.singles(runs))
    assert np.array_equal(np.concatenate([np.stack(pair) for pair in singles], axis=3), whole)


@given(SOME_RUNS, st.integers(0, 2000))
def test_split(runs: list[Run], count: int) -> None:
    head, tail = split(runs, count)
    positions = [run.start + at for run in runs for at in range(run.length)]
    assert [run.start + at for run in head for at in range(run.length)] == positions[:count]
    assert [run.start + at for run in tail for at in range(run.length)] == positions[count:]


def test_one_run_is_not_copied() -> None:
    keys, values = TAPE.tokens([Run(TAPE.period - 1, TAPE.period)])
    again, _ = TAPE.tokens([Run(TAPE.period - 1, 2)])
    assert np.shares_memory(keys, again)
    assert not np.shares_memory(keys, values)


def test_tapes_of_one_layout_are_equal_and_odd() -> None:
    again = TokenTape(LAYOUT, budget=1)
    assert np.array_equal(again.tokens([Run(0, 500)]), TAPE.tokens([Run(0, 500)]))
    for budget in (1, 10**5, 10**6, 10**9):
        assert TokenTape(KVLayout(1, 1, 8), budget).period % 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [0, 1, 251, 502, 1337])
def test_what_was_written_is_found_to_be_so(dtype: str, count: int) -> None:
    layout = KVLayout(2, 2, 8, dtype)
    tape = TokenTape(layout, budget=1)
    entry = KVCacheEntry.create(MemoryPool(1 << 20, "numpy"), layout, 1400, "s")
    runs = [Run(250, count)]
    if count:
        entry.extend(*tape.tokens(runs))
    assert tape.faults(entry, runs) == []
    assert len(tape.faults(entry, [Run(250, count + 1)])) == 8
    assert count == 0 or len(tape.faults(entry, [Run(249, count)])) == 8


def test_requests_without_blocks_write_one_run_each_and_neighbours_differ() -> None:
    first, second = (request_runs(TraceRequest(0, 30, 5), number, None) for number in (1, 2))
    (prompt,), (generated,) = first
    assert generated == (prompt.start + 30, 5)
    assert abs(second[0][0].start - prompt.start) % TAPE.period > 35


def test_blocks_alone_say_what_a_prompt_is() -> None:
    request = TraceRequest(0, 1300, 20, (4, 5, 9))
    prompt, generated = request_runs(request, 1, 512)
    assert prompt == [Run(4 * 512, 1024), Run(9 * 512, 276)]
    again, generated_again = request_runs(request, 2, 512)
    assert again == prompt
    assert generated_again != generated
