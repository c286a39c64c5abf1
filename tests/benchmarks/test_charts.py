"""Charts show what the record says, to scale, and nothing by colour alone."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from benchmarks.charts import MOST, WIDTH, bars, distance, targets
from benchmarks.harness import Measurement, Report, Target, median
from scripts.drawing import STYLE, Drawing
from tests.support.docs_pages import DOCS
from tests.support.scratch_benchmarks import record, report

SVG = "{http://www.w3.org/2000/svg}"


def drawn(drawing: Drawing | None) -> ElementTree.Element:
    assert drawing is not None
    return ElementTree.fromstring(drawing.svg())


def texts(root: ElementTree.Element) -> list[str]:
    return [one.text or "" for one in root.iter(f"{SVG}text")]


def one(value: float, target: Target | None = None, what: str = "a task") -> Measurement:
    return median(what, "ours", "µs", [value], target)


def test_bars_are_as_long_as_the_figures_say() -> None:
    root = drawn(bars(report()))
    ours, theirs = (float(bar.attrib["width"]) for bar in root.iter(f"{SVG}rect"))
    assert theirs == WIDTH
    assert ours == 2  # 2 of 5,000 would not be seen
    assert [bar.attrib["class"] for bar in root.iter(f"{SVG}rect")] == ["ours", "theirs"]
    assert texts(root) == ["one task (µs)", "ours", "2", "theirs", "5,000"]


def test_a_screen_reader_has_the_figures() -> None:
    root = drawn(bars(report()))
    assert root.attrib["aria-label"] == "speed. one task: ours 2 µs, theirs 5,000 µs"
    assert root.attrib["role"] == "img"


def test_nothing_to_compare_has_no_chart() -> None:
    assert bars(Report("speed", [one(1)])) is None
    assert targets([]) is None


def test_a_chart_says_what_it_leaves_out() -> None:
    rows = [
        median(f"task {number}", subject, "µs", [1.0])
        for number in range(MOST + 2)
        for subject in ("ours", "theirs")
    ]
    found = texts(drawn(bars(Report("speed", rows))))
    assert found[-1] == "and 2 more, in the tables"
    assert sum(text.startswith("task") for text in found) == MOST


@pytest.mark.parametrize("name", ["a subject of quite a few words", "x" * 200])
def test_no_text_leaves_the_chart(name: str) -> None:
    rows = [median("a task " * 30, subject, "µs", [1e9]) for subject in (name, "theirs")]
    for text in texts(drawn(bars(Report("speed", rows)))):
        assert len(text) <= 60


@pytest.mark.parametrize(
    ("value", "target", "power"),
    [
        (2.0, Target(20, at_most=True), 1),
        (20.0, Target(20, at_most=True), 0),
        (40.0, Target(4, at_most=True), -1),
        (40.0, Target(4, at_most=False), 1),
        (1.0, Target(1e9, at_most=True), 2),
        (1e9, Target(1, at_most=True), -1),
        (0.0, Target(0, at_most=True), 0),
        (0.0, Target(5, at_most=True), 2),
        (0.0, Target(5, at_most=False), -1),
    ],
)
def test_how_far_a_target_is(value: float, target: Target, power: float) -> None:
    assert distance(one(value, target)) == pytest.approx(power)


def test_without_a_target_there_is_no_distance() -> None:
    with pytest.raises(ValueError, match="a task has no target"):
        distance(one(1))


def test_what_is_missed_has_a_shape_of_its_own() -> None:
    root = drawn(targets(record().benchmarks))
    legend = 1
    assert len(list(root.iter(f"{SVG}circle"))) == 1 + legend
    missed = [path for path in root.iter(f"{SVG}path") if path.attrib["class"] == "missed"]
    assert len(missed) == 1 + legend
    assert "1 of 2 figures meet their targets" in root.attrib["aria-label"]


def test_the_site_has_the_colours_of_the_drawings() -> None:
    colours = re.findall(r"--(\w+): (#\w{6})", STYLE)
    css = (DOCS / "_static/kvpool.css").read_text(encoding="utf-8")
    assert re.findall(r"--(\w+): (#\w{6})", css) == colours
    assert len(colours) == 2 * len(dict(colours)) > 0
