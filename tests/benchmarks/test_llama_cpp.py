"""The benchmark of llama.cpp works with the real model, and compares the tokens."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from benchmarks.harness import Report
from tests.support import needs

pytestmark = pytest.mark.engines


@pytest.fixture
def benchmark() -> Any:
    needs.llama_cpp()
    return importlib.import_module("benchmarks.llama_cpp")


def test_every_side_is_measured_after_each_number_of_conversations(benchmark: Any) -> None:
    report, file = Report("a small run"), str(needs.small_model())
    benchmark.measure(report, file, 70, (2, 3), 1)
    sides = ["PooledLlama", "LlamaRAMCache"]
    every = [*sides, "no cache", *sides]
    assert [figure.subject for figure in report.measurements] == 2 * every
    memory = [figure.value for figure in report.measurements if figure.unit == "MiB"]
    assert all(0 < ours < theirs for ours, theirs in zip(memory[::2], memory[1::2], strict=True))


def test_other_words_are_an_error(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file = str(needs.small_model())
    ask = benchmark.Side.ask

    def changed(side: Any, prompt: list[int]) -> Any:
        took = ask(side, prompt)
        if isinstance(side, benchmark.PooledSide):
            side.said[-1] += "!"
        return took

    monkeypatch.setattr(benchmark.Side, "ask", changed)
    with pytest.raises(AssertionError, match="PooledLlama says"):
        benchmark.measure(Report("a wrong run"), file, 20, (1,), 1)
