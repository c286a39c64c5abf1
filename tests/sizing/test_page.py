"""The report as a page, read as a browser reads it, and drawn by the library of its charts."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from kvpool.errors import MissingExtraError
from kvpool.sizing import (
    HitCurve,
    PrefixTrace,
    SizingError,
    SizingReport,
    measure,
    page,
    require_charts,
    write_page,
)
from kvpool.sizing._page import _inside_script
from tests.support.prefix_traces import requests_of

_VOID = {"meta", "link", "img", "br", "hr", "input", "wbr"}


class Page(HTMLParser):
    """Elements that are open at the end, addresses that are fetched, texts, and scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in {"src", "href", "xlink:href", "action", "data"} and value:
                self.addresses.append(value)
            if name == "id" and value:
                self.ids.add(value)
        if tag == "script":
            self.scripts.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif not (self.open and self.open[-1] == "style"):
            self.texts.append(data)


@pytest.fixture(scope="module")
def text(report: SizingReport) -> str:
    return page(report, "a trace")


def charts(text: str) -> Any:
    return json.loads(Page(text).scripts[0])


def test_it_is_one_whole_page_that_fetches_nothing(text: str) -> None:
    found = Page(text)
    assert found.open == []
    assert [one for one in found.addresses if not one.startswith("#")] == []
    assert not re.search(r"@import|url\((?!#)", text.partition("<body>")[0])
    assert len(found.scripts) == 3
    assert set(charts(text)) <= found.ids


def test_it_says_what_the_report_says(text: str, report: SizingReport) -> None:
    shown = " ".join(Page(text).texts)
    assert "How big a pool a trace needs" in shown
    answer = report.answer("lfu", 0.8)
    assert answer.blocks is not None
    assert report.size_text(answer.blocks) in shown
    assert f"{report.curves['lru'].hit_ratio(report.sizes[0]):.2%}" in shown


def test_its_charts_are_drawn_by_the_library(text: str) -> None:
    found = charts(text)
    assert set(found) == {"curves", "ages", "lives"}
    for chart in found.values():
        svg = require_charts().vegalite_to_svg(chart | {"width": 300})
        assert svg.count("<path") > 3
    svg = require_charts().vegalite_to_svg(found["curves"] | {"width": 300})
    for word in ("lru", "lfu", "clairvoyant", "infinite pool", "GiB"):
        assert word in svg


def test_colours_follow_the_scheme_of_the_reader(text: str) -> None:
    """Each colour of a chart is a variable of the page, which has two values."""
    drawn = set(re.findall(r"var\((--\w+)\)", json.dumps(charts(text))))
    assert {"--c0", "--c1", "--ink", "--soft", "--line"} <= drawn
    light, dark = re.findall(r":root \{(.*?)\}", text, re.DOTALL)[:2]
    for scheme in (light, dark):
        assert drawn <= set(re.findall(r"(--\w+):", scheme))
    assert not re.search(r"#[0-9a-f]{3,6}\b", json.dumps(charts(text)))


def test_names_and_titles_are_only_text(report: SizingReport) -> None:
    evil = "</script><script>alert(1)</script>"
    lru = report.curves["lru"]
    curve = HitCurve(evil, lru.sizes, lru.hits, lru.references)
    found = Page(page(dataclasses.replace(report, curves={"lru": lru, evil: curve}), evil))
    assert len(found.scripts) == 3
    assert found.open == []
    assert "alert(1)" in " ".join(found.texts)


def test_a_script_cannot_end_its_element() -> None:
    text = 'let a = "</script>", b = "</SCRIPT>", c = "<!-- <script>", d = 1 < 2;'
    inside = _inside_script(text)
    assert Page(f"<script>{inside}</script>").scripts == [inside]
    assert inside.count(r"\x3c") == 4
    assert inside.endswith("d = 1 < 2;")


def test_a_trace_without_reuse_has_a_page() -> None:
    report = measure(PrefixTrace.from_requests(requests_of([(1, 2), (3,)]), 16), points=2)
    found = page(report, "x")
    assert set(charts(found)) == {"curves"}
    assert "No prompt begins like an earlier one" in " ".join(Page(found).texts)


def test_a_page_is_written_and_replaced(tmp_path: Path, report: SizingReport, text: str) -> None:
    file = tmp_path / "report.html"
    file.write_text("old", encoding="utf-8")
    write_page(report, file, "a trace")
    assert file.read_text(encoding="utf-8") == text


def test_a_page_that_cannot_be_written(tmp_path: Path, report: SizingReport) -> None:
    with pytest.raises(SizingError, match=r"cannot write .*no/report\.html: No such file"):
        write_page(report, tmp_path / "no" / "report.html", "a trace")


def test_without_the_extra_the_error_names_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, report: SizingReport
) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(MissingExtraError, match=r"kvpool\[report\]"):
        write_page(report, tmp_path / "report.html", "a trace")
    assert list(tmp_path.iterdir()) == []
