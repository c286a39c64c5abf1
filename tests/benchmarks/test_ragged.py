"""The benchmark of many sessions in one step compares sides that decode the same tokens."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.harness import Report
from tests.support import needs

pytestmark = pytest.mark.transformers

SIDES = ["PooledBatch", "DynamicCache, padded", "one call per session"]


@pytest.fixture
def ragged() -> Any:
    needs.transformers()
    importlib.import_module("torch").set_num_threads(1)
    return importlib.import_module("benchmarks.ragged")


def test_the_sides_take_turns_and_decode_the_same(ragged: Any) -> None:
    report = Report("a small run")
    (case,) = ragged.QUICK
    with importlib.import_module("torch").no_grad():
        ragged.measure(report, case, 2, rounds=2)
        ragged.measure(report, case, 1, rounds=1)
    assert [figure.subject for figure in report.measurements] == SIDES * 2
    assert [ratio.theirs.subject for ratio in report.ratios] == SIDES[1:] * 2
    assert not report.targeted()


def test_eight_sessions_have_targets(ragged: Any) -> None:
    report = Report("a small run")
    (case,) = ragged.QUICK
    with importlib.import_module("torch").no_grad():
        ragged.measure(report, case, 8, rounds=1)
        ragged.measure(report, replace(case, dtype="bfloat16"), 8, rounds=1)
    assert [str(ratio.target) for ratio in report.ratios] == ["≥ 1.4", "≥ 3", "≥ 1.25", "≥ 3"]


def test_the_continuous_batching_of_transformers_takes_part(ragged: Any) -> None:
    report = Report("a small run")
    (case,) = ragged.QUICK
    with importlib.import_module("torch").no_grad():
        ragged.measure_paged(report, case, 2, rounds=1)
    (ratio,) = report.ratios
    assert (ratio.ours.subject, ratio.theirs.subject) == (SIDES[0], "generate_batch")


def test_other_tokens_are_an_error(ragged: Any) -> None:
    (case,) = ragged.QUICK
    said = {"PooledBatch": [[1, 2]], "another": [[1, 3]]}
    with pytest.raises(AssertionError, match="another decodes"):
        ragged.check_tokens(case, said)
    ragged.check_tokens(replace(case, dtype="bfloat16"), said)
