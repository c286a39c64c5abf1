"""The benchmark of the first token works with the real model, and compares the tokens."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import Report
from tests.support import needs
from tests.support.real_model import small_model_directory

pytestmark = pytest.mark.transformers

__all__ = ["small_model_directory"]


@pytest.fixture
def first_token(small_model_directory: Path) -> Any:
    needs.transformers()
    assert small_model_directory.is_dir()
    return importlib.import_module("benchmarks.first_token")


def test_a_reused_prompt_is_compared_with_a_computed_one(first_token: Any) -> None:
    report = Report("a small run")
    first_token.measure(report, tokens=24, rounds=2)
    subjects = [figure.subject for figure in report.measurements]
    assert subjects == [
        "PooledCache, reused, mmap",
        "PooledCache, reused, numpy",
        "PooledCache, computed",
        "DynamicCache",
    ]
    assert [ratio.ours.subject for ratio in report.ratios] == subjects[:2]
    assert {ratio.theirs.subject for ratio in report.ratios} == {"PooledCache, computed"}
    assert all(ratio.target == first_token.REUSED_OF_COMPUTED for ratio in report.ratios)


def test_other_tokens_are_an_error(first_token: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_token.PooledSide, "answer", lambda _side, _prompt: 7)
    with pytest.raises(AssertionError, match=r"reused, mmap has the first tokens \[7\], not"):
        first_token.measure(Report("a wrong run"), tokens=24, rounds=1)
