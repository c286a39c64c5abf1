"""The curves of all policies over one trace."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
from typing import Any

import numpy as np
import pytest

from kvpool.errors import UnknownPluginError
from kvpool.sizing import (
    SHARES,
    HitCurve,
    PrefixTrace,
    SizingError,
    SizingReport,
    _measuring,
    _workers,
    clairvoyant_curve,
    describe,
    lru_curve,
    measure,
    policy_hits,
    usable_policies,
)
from tests.support.prefix_traces import requests_of


def test_lru_and_the_bounds_are_exact(talks: PrefixTrace, report: SizingReport) -> None:
    assert report.curves["lru"].hits.tolist() == lru_curve(talks).hits.tolist()
    assert report.reusable == report.curves["lru"].hits[-1]
    bound = clairvoyant_curve(talks, report.sizes)
    assert [report.bound.hits_at(size) for size in report.sizes] == bound.hits.tolist()
    assert report.bound.hits_at(0) == 0


def test_others_are_simulated_at_each_size(talks: PrefixTrace, report: SizingReport) -> None:
    curve = report.curves["lfu"]
    for size in report.sizes:
        assert curve.hits_at(size) == policy_hits(talks, "lfu", size).sum()
    assert (curve.hits_at(0), curve.error) == (0, 0)
    assert curve.hits_at(talks.block_count) == report.reusable
    assert (report.sample_rate, report.seeds) == (1, 1)


def test_sizes_reach_from_a_prompt_to_nearly_all_hits(
    talks: PrefixTrace, report: SizingReport
) -> None:
    assert report.sizes[0] >= talks.longest
    assert len(report.sizes) == 6
    assert report.curves["lru"].hits_at(report.sizes[-1]) >= 0.99 * report.reusable


def test_a_policy_that_needs_more_than_lru_is_measured_further(talks: PrefixTrace) -> None:
    found = measure(talks, ["fifo"], points=4)
    curve = found.curves["fifo"]
    further = [size for size in curve.sizes.tolist() if found.sizes[-1] < size < talks.block_count]
    assert further
    for size in further:
        assert curve.hits_at(size) == policy_hits(talks, "fifo", size).sum()
    need = found.answer("fifo", 0.95).blocks
    assert need is not None
    assert need > found.sizes[-1]


def test_processes_measure_the_same(
    talks: PrefixTrace, report: SizingReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_workers, "LITTLE_WORK", 0)
    done: list[tuple[int, int]] = []
    again = measure(
        talks,
        ["lfu"],
        points=6,
        workers=2,
        on_progress=lambda *figures: done.append(figures),
    )
    assert again.curves["lfu"].hits.tolist() == report.curves["lfu"].hits.tolist()
    assert done[:6] == [(number, 6) for number in range(1, 7)]  # the first round


def test_a_process_that_is_ended_is_an_error(
    talks: PrefixTrace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_workers, "LITTLE_WORK", 0)
    ended: list[int] = []

    def end_one(_done: int, _total: int) -> None:
        children = multiprocessing.active_children()
        if children and not ended:
            ended.append(children[0].pid or 0)
            children[0].kill()

    with pytest.raises(SizingError, match=r"ended early .* \(--workers\)"):
        measure(talks, ["lfu"], points=50, workers=2, on_progress=end_one)
    assert ended


def test_all_policies_are_measured_by_default(talks: PrefixTrace) -> None:
    names = list(measure(talks, points=2).curves)
    assert names == list(usable_policies())
    assert names[0] == "lru"


def test_a_sample_tells_its_error(talks: PrefixTrace, report: SizingReport) -> None:
    found = measure(talks, ["lfu"], points=6, sample_rate=0.5, seeds=4)
    assert (found.sample_rate, found.seeds) == (0.5, 4)
    curve, exact = found.curves["lfu"], report.curves["lfu"]
    assert curve.error > 0
    off = [abs(curve.hit_ratio(size) - exact.hit_ratio(size)) for size in report.sizes]
    assert max(off) <= 2 * curve.error
    assert found.curves["lru"].error == 0
    assert found.curves["lru"].hits.tolist() == report.curves["lru"].hits.tolist()
    assert any("4 samples of 50.0%" in one for one in describe(found))


def test_a_long_trace_is_sampled_by_default(
    talks: PrefixTrace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_measuring, "WHOLE_REFERENCES", talks.reference_count // 2)
    found = measure(talks, ["lfu"], points=2, seeds=2)
    assert found.sample_rate == pytest.approx(0.5, abs=0.01)
    assert found.curves["lfu"].error > 0


@pytest.mark.parametrize(
    "options",
    [
        {"points": 1},
        {"points": 2.5},
        {"seeds": 1},
        {"seeds": None},
        {"workers": 0},
        {"workers": True},
        {"sample_rate": 0.0},
        {"sample_rate": 2.0},
    ],
    ids=str,
)
def test_bad_options_are_refused(talks: PrefixTrace, options: dict[str, Any]) -> None:
    (value,) = options.values()
    with pytest.raises(SizingError, match=str(value)):
        measure(talks, **options)


def test_an_unknown_policy_is_refused_at_once(talks: PrefixTrace) -> None:
    calls: list[object] = []
    with pytest.raises(UnknownPluginError, match="mru"):
        measure(talks, ["mru"], on_progress=lambda *_: calls.append(1))
    assert calls == []


def test_answers(report: SizingReport) -> None:
    for policy, curve in report.curves.items():
        for share in SHARES:
            answer = report.answer(policy, share)
            assert answer.blocks is not None
            wanted = share * report.reusable
            assert curve.hits_at(answer.blocks) >= wanted - 1e-6 > curve.hits_at(answer.blocks - 1)
            assert answer.tokens == answer.blocks * report.block_tokens
            assert answer.nbytes == answer.tokens * 131_072
        assert report.best(0.8).blocks == min(
            report.answer(one, 0.8).blocks or 0 for one in report.curves
        )


def test_the_document_is_json_with_all_figures(report: SizingReport) -> None:
    shown = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert list(shown["policies"]) == ["lru", "lfu"]
    assert shown["infinite"]["hit_blocks"] == report.reusable
    rows = shown["curves"]
    assert len(rows) == 3 * len(report.sizes)
    assert rows[0]["bytes"] == rows[0]["blocks"] * report.block_tokens * 131_072
    needs = shown["policies"]["lru"]["needs"]
    assert [one["blocks"] for one in needs] == [report.answer("lru", s).blocks for s in SHARES]
    ages = shown["reuse_ages_seconds"]
    assert sum(ages["counts"]) == report.reusable


def test_words(report: SizingReport) -> None:
    text = " ".join(describe(report))
    first = report.answer("lru", 0.5)
    assert first.blocks is not None
    assert f"{report.reusable:,} of {report.references:,} blocks" in text
    assert f"LRU needs {report.size_text(first.blocks)} for 50%" in text


def test_a_policy_is_called_better_only_beyond_its_error(report: SizingReport) -> None:
    lru = report.curves["lru"]
    gain = 0.02 * lru.references
    shifted = np.minimum(lru.hits + gain, report.reusable)
    for error, is_said in ((0.019, True), (0.021, False)):
        curve = HitCurve("x", lru.sizes, shifted, lru.references, error)
        better = dataclasses.replace(report, curves={"lru": lru, "x": curve})
        assert ("The smallest pool for 50% is one with x" in " ".join(describe(better))) == is_said


def test_sizes_as_text(report: SizingReport, talks: PrefixTrace) -> None:
    blocks = (2**30 // 131_072) // 16  # of 1 GiB
    texts = [report.size_text(blocks * count) for count in (1, 12, 1500)]
    assert texts == ["1.0 GiB", "12.0 GiB", "1,500 GiB"]
    assert report.size_text(1) == "2.0 MiB"
    assert measure(talks, [], points=2).size_text(1500) == "1,500 blocks"


def test_a_trace_without_reuse() -> None:
    found = measure(PrefixTrace.from_requests(requests_of([(1, 2), (3,), ()]), 16), points=4)
    assert found.reusable == 0
    assert describe(found)[-1].startswith("No prompt begins like an earlier one")
    assert json.dumps(found.as_dict(), allow_nan=False)
    assert all(np.all(curve.hits == 0) for curve in found.curves.values())


def test_without_a_layout_sizes_are_blocks(talks: PrefixTrace) -> None:
    found = measure(talks, [], points=2)
    assert found.answer("lru", 0.5).nbytes is None
    assert found.bytes_per_block is None
    assert next(found.rows())["bytes"] is None
