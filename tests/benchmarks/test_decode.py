"""The benchmark of decoding: it compares what computes the same, and finds what does not."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.decode_cases import CASES, CONTEXTS, DYNAMIC, POOLED, STATIC, Case, Shape
from benchmarks.harness import Ratio, Report, median
from benchmarks.record import Record, write
from benchmarks.suite import Outcome
from tests.support import needs
from tests.support.scratch_benchmarks import record

SMALL = Case(
    Shape(layers=2, heads=4, kv_heads=2, head_dim=8, hidden=16),
    "float32",
    "kvpool",
    contexts=(1024,),
    has_targets=True,
)


@pytest.fixture
def decode() -> Any:
    needs.transformers()
    return importlib.import_module("benchmarks.decode")


@pytest.fixture
def models() -> Any:
    needs.transformers()
    return importlib.import_module("benchmarks.decode_models")


def test_every_case_has_figures_of_its_own() -> None:
    names = [case.decode(context) for case in CASES for context in case.contexts]
    assert len(names) == len(set(names))


def test_targets_are_for_every_context_beside_both_peers() -> None:
    shown = [str(SMALL.target(context, DYNAMIC)) for context in CONTEXTS]
    assert shown == ["≥ 1.3", "≥ 1.5", "≥ 2", "≥ 4"]
    assert {str(SMALL.target(context, STATIC)) for context in CONTEXTS} == {"≥ 1"}
    free = [case for case in CASES if not case.has_targets]
    assert free
    assert all(case.target(1024, DYNAMIC) is None for case in free)


@pytest.mark.transformers
def test_speed_is_measured_beside_both_peers(decode: Any) -> None:
    report = Report("decode")
    with importlib.import_module("torch").inference_mode():
        decode.measure_speed(SMALL, 1024, report, rounds=2)
    speeds = {one.subject for one in report.measurements if one.unit == "tokens/s"}
    assert speeds == {POOLED, DYNAMIC, STATIC}
    assert [(one.theirs.subject, str(one.target)) for one in report.ratios] == [
        (DYNAMIC, "≥ 1.3"),
        (STATIC, "≥ 1"),
    ]
    (unlike,) = (one for one in report.measurements if one.unit == "logits")
    assert (unlike.value, unlike.met) == (0, True)


@pytest.mark.transformers
def test_a_cache_with_other_tokens_is_found(decode: Any, models: Any) -> None:
    model = models.make_model(SMALL)
    caches = {name: models.make_cache(name, model, 80) for name in (POOLED, DYNAMIC)}
    models.fill([caches[POOLED]], SMALL, 64)
    models.fill([caches[DYNAMIC]], SMALL, 63)
    decoders = {name: models.Decoder(model, cache) for name, cache in caches.items()}
    with importlib.import_module("torch").inference_mode():
        for decoder in decoders.values():
            decoder.decode(1)
    assert decode.unlike(SMALL, 64, decoders).value > 0
    decoders[POOLED].logits = decoders[DYNAMIC].logits + 1
    with pytest.raises(AssertionError, match=f"{POOLED} computes other logits at 64 tokens"):
        decode.check_logits(SMALL, 64, decoders)


@pytest.mark.transformers
def test_an_append_is_measured_in_both_backends(decode: Any) -> None:
    report = Report("decode")
    with importlib.import_module("torch").inference_mode():
        decode.measure_append(64, report, rounds=2)
    targets = {one.subject: str(one.target) for one in report.measurements}
    assert targets == {f"{POOLED}, mmap": "≤ 15", f"{POOLED}, numpy": "≤ 15", STATIC: "None"}


def test_the_plot_is_drawn_from_a_record_alone(tmp_path: Path) -> None:
    try:
        plot = importlib.import_module("benchmarks.decode_plot")
    except ImportError as error:
        needs.missing("matplotlib", f"the plot cannot be drawn: {error}")
    source, drawn = tmp_path / "record.json", tmp_path / "plot.svg"
    options = ["--record", str(source), "--output", str(drawn)]
    made = drawable()
    write(source, made)
    assert plot.main(options) == 0
    first = drawn.read_bytes()
    assert made.taken.isoformat().encode() in first
    assert plot.main(options) == 0
    assert drawn.read_bytes() == first
    write(source, replace(made, benchmarks=()))
    assert plot.main(options) == 1
    assert drawn.read_bytes() == first


def drawable() -> Record:
    """Return a record with all that the plot shows."""
    report = Report("decode")
    for case in CASES:
        for context in case.contexts:
            what = case.decode(context)
            ours, theirs, third = (
                median(what, name, "tokens/s", [speed])
                for name, speed in ((POOLED, 40.0), (DYNAMIC, 10.0), (STATIC, 39.0))
            )
            report.measurements += [ours, theirs, third]
            report.ratios.append(Ratio(what, ours, theirs, "times as fast", 4.0))
    return replace(record(), benchmarks=(Outcome("decode", "Decodes.", "measured", "", 1, report),))
