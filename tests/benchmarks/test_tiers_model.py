"""The benchmark of tiers with the real model works, and compares what the model says."""

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
def tiers_model(small_model_directory: Path) -> Any:
    needs.transformers()
    assert small_model_directory.is_dir()
    return importlib.import_module("benchmarks.tiers_model")


@pytest.fixture
def codecs(tiers_model: Any) -> Any:
    del tiers_model
    return importlib.import_module("benchmarks.tiers_codecs")


def test_a_prompt_is_loaded_and_computed(tiers_model: Any) -> None:
    report = Report("a small run")
    tiers_model.measure_load(report, tokens=70, rounds=1)
    assert [figure.subject for figure in report.measurements] == ["tier disk", "computed"]
    (ratio,) = report.ratios
    assert ratio.target == tiers_model.LOADED_OF_COMPUTED
    assert ratio.subject == "tier disk beside computed"


def test_a_prompt_that_is_not_loaded_is_an_error(
    tiers_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiers_model.Prompt, "_ask", lambda _prompt, _manager: 0)
    with pytest.raises(AssertionError, match="0 tokens were loaded, not 64"):
        tiers_model.measure_load(Report("a wrong run"), tokens=70, rounds=1)


def test_codecs_are_measured(codecs: Any) -> None:
    report = Report("a small run")
    codecs.measure_sizes(report, quick=True)
    stored = {one.subject: one.value for one in report.measurements if one.unit == "bytes"}
    assert stored["int4"] < stored["int8"] < stored["zstd"] < stored["none"]
    assert {ratio.ours.subject for ratio in report.ratios} == {"none"}


def test_rounded_keys_and_values_are_compared_with_exact_ones(codecs: Any) -> None:
    report = Report("a small run")
    codecs.measure_errors(report, quick=True)
    perplexity = {one.subject: one.value for one in report.measurements if not one.unit}
    assert len({perplexity[name] for name in ("none", "int8", "int4")}) == 3
    same = {(one.what[-4:], one.subject): one.value for one in report.measurements if one.unit}
    assert same.keys() == {(kind, name) for kind in ("each", " row") for name in codecs.ROUNDED}
    assert all(0 <= count <= codecs.QUICK_ANSWER for count in same.values())
