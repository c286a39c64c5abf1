"""Figures in the text of pages: each is from a record, or from an example that runs."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from markdown_it import MarkdownIt

from benchmarks.figures import PAGES, FigureError, filled, short
from benchmarks.page import RECORD, check
from tests.support.docs_pages import DOCS, ROOT
from tests.support.marks import needs_pages
from tests.support.scratch_benchmarks import record
from tests.support.terminal import run

# What was measured: a number with one of these behind it. Sizes, limits and versions are not.
MEASURED = re.compile(
    r"(?<![\w.])\d[\d.,]*(?: to \d[\d.,]*)? ?"
    r"(?:times\b|to 1\b|µs|[mn]s\b|microseconds|milliseconds|[GM]i?B/s|(?:tokens|requests)/s|%)"
)
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
FIGURE = re.compile(r"<!-- figure: .*?<!-- /figure -->", re.DOTALL)
COMPUTED = re.compile(r"<!-- computed: (\S+) -->(.*?)<!-- /computed -->", re.DOTALL)

# All pages that are written by hand.
HAND = [ROOT / "README.md", *sorted(set(DOCS.glob("*.md")) - {DOCS / "performance.md"})]
HAND += sorted(DOCS.glob("reference/*.md"))


def loose_figures(text: str) -> list[str]:
    """Return the figures of a page that stand in no record and in no example."""
    plain = CODE.sub("", COMPUTED.sub("", FIGURE.sub("", text)))
    return MEASURED.findall(" ".join(plain.split()))


@pytest.mark.parametrize("page", HAND, ids=lambda page: page.stem)
def test_no_figure_is_typed_by_hand(page: Path) -> None:
    assert loose_figures(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text",
    [
        "it takes 5 µs",
        "4.9 times as fast",
        "by 12 %",
        "1,000 ms",
        "5 to 50 microseconds",
        "1.4 to 1",
    ],
)
def test_what_is_found(text: str) -> None:
    assert loose_figures(f"Then {text}, see\n`9 µs`.") != []


def test_what_is_computed_has_a_test_that_reads_the_page() -> None:
    found = [(page, match) for page in HAND for match in COMPUTED.findall(page.read_text("utf-8"))]
    assert found
    for page, (test, figures) in found:
        assert MEASURED.search(figures), f"{page}: {figures} is no figure"
        assert f'"{page.name}"' in (ROOT / test).read_text(encoding="utf-8"), f"{test}: {page}"


def test_pages_have_the_figures_of_the_records() -> None:
    assert check(RECORD) == ""
    for page in PAGES:
        assert "<!-- figure: " in page.read_text(encoding="utf-8")


def test_a_figure_is_written_from_a_record() -> None:
    (outcome, *_) = [one for one in record().benchmarks if one.report and one.report.ratios]
    assert outcome.report is not None
    ratio = outcome.report.ratios[0]
    name = f"{outcome.name} :: {ratio.what} :: {ratio.subject}"
    text = f"It is <!-- figure: {name} -->0<!-- /figure --> times as fast."
    assert filled(text, record().benchmarks) == text.replace("-->0<", f"-->{short(ratio)}<")
    with pytest.raises(FigureError, match=r"no record has the figure a :: b :: c"):
        filled("<!-- figure: a :: b :: c -->1<!-- /figure -->", record().benchmarks)


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0614, "0.06"), (0.195, "0.2"), (1.25, "1.2"), (1234.5, "1,234")]
)
def test_a_ratio_in_a_few_digits(value: float, shown: str) -> None:
    ratio = next(
        one for found in record().benchmarks if found.report for one in found.report.ratios
    )
    assert short(replace(ratio, value=value)) == shown


def readable_figures(text: str) -> int:
    """Return how many figures a reader of the rendered page finds in a sentence or in a cell."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    return sum(
        inside.type == "html_inline" and inside.content.startswith("<!-- figure: ")
        for token in tokens
        for inside in token.children or ()
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_figures_stand_where_their_sentences_are(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert readable_figures(text) == text.count("<!-- figure: ") > 0


@pytest.mark.parametrize(
    "text",
    ["A page is\n{}\ntimes as fast.", "| a | b |\n| --- | --- |\n| c | {} times |\n"],
    ids=["a line", "a cell"],
)
def test_a_figure_that_no_reader_would_find_is_seen(text: str) -> None:
    figure = "<!-- figure: a | b | c -->1<!-- /figure -->"
    assert readable_figures(text.format(figure)) == 0


def test_both_sides_of_a_figure_are_named() -> None:
    """Two of our sides may be measured beside the same other one."""
    outcome = next(one for one in record().benchmarks if one.report and one.report.ratios)
    assert outcome.report is not None
    ratio = outcome.report.ratios[0]
    other = replace(ratio, ours=replace(ratio.ours, subject="another"), value=7 * ratio.value)
    both = replace(outcome, report=replace(outcome.report, ratios=[ratio, other]))
    name = f"{outcome.name} :: {ratio.what} :: {ratio.subject}"
    text = f"<!-- figure: {name} -->{short(ratio)}<!-- /figure -->"
    assert filled(text, [both]) == text


@needs_pages
def test_the_picture_is_what_the_command_draws(tmp_path: Path) -> None:
    assert run("map", "-o", str(tmp_path / "map.svg")).returncode == 0
    assert texts(DOCS / "map.svg") == texts(tmp_path / "map.svg")


def texts(picture: Path) -> list[str]:
    root = ElementTree.fromstring(picture.read_text(encoding="utf-8"))
    return [text for one in root.iter() for text in one.itertext() if one.tag.endswith("text")]
