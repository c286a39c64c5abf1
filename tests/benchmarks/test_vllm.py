"""The benchmark of vLLM works: hit rates by vLLM's own manager, first tokens that are compared."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import Report
from kvpool.replay import TraceRequest
from tests.integrations.conftest import small_model_directory
from tests.integrations.vllm.conftest import parts

__all__ = ["parts", "small_model_directory"]

pytestmark = pytest.mark.engines


@pytest.fixture
def benchmark(parts: Any) -> Any:
    assert parts
    return importlib.import_module("benchmarks.vllm")


def requests(*prompts: tuple[int, ...]) -> list[TraceRequest]:
    return [TraceRequest(0.0, 512 * len(blocks), 0, blocks) for blocks in prompts]


@pytest.mark.parametrize("policy", ["lru", "arc", "kvpool-lru", "kvpool-s3-fifo"])
def test_the_share_of_blocks_that_are_there(benchmark: Any, policy: str) -> None:
    trace = requests((1, 2, 3), (1, 2, 4), (5, 2, 3), (1, 2, 3))
    assert benchmark.hit_rate(trace, 100, policy) == (0 + 2 + 0 + 3) / 12
    assert benchmark.hit_rate(requests((1, 2), (3, 4), (1, 2)), 2, policy) == 0


def test_lru_is_that_of_vllm(benchmark: Any) -> None:
    trace = requests(*((n % 2, 10 + n % 4, 20 + n % 12) for n in range(200)))
    for size in 5, 10, 15:
        theirs = benchmark.hit_rate(trace, size, "lru")
        assert benchmark.hit_rate(trace, size, "kvpool-lru") == theirs
        assert 0 < theirs < 1


def test_every_policy_has_a_figure(benchmark: Any) -> None:
    report = Report("a small run")
    benchmark.measure_hit_rates(report, requests(*((0, 1 + n % 4) for n in range(40))), 4)
    subjects = {figure.subject for figure in report.measurements}
    assert subjects == {*benchmark.THEIRS, *benchmark.OURS}
    assert len(report.ratios) == 2


def test_first_tokens_are_those_of_the_process_before(
    benchmark: Any, small_model_directory: Path, tmp_path: Path
) -> None:
    report = Report("a small run")
    benchmark.measure_first_tokens(report, small_model_directory, tmp_path, 1)
    assert [figure.subject for figure in report.measurements] == ["loaded from a disk", "computed"]
    assert len(report.ratios) == 1
