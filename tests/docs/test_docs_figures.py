"""Figures in the text of pages: each is from a record, or from an example that runs."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.figures import PAGES, FigureError, filled, short
from benchmarks.page import RECORD, check
from tests.support.docs_pages import DOCS, ROOT
from tests.support.scratch_benchmarks import record
from tests.support.terminal import run

# What was measured: a number with one of these behind it. Sizes, limits and versions are not.
MEASURED = re.compile(
    r"(?<![\w.])\d[\d.,]*(?: to \d[\d.,]*)? ?"
    r"(?:times (?:as|less|more|faster|the)|µs|[mn]s\b|microseconds|milliseconds|[GM]B/s|tokens/s|%)"
)
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
FIGURE = re.compile(r"<!-- figure: .*?<!-- /figure -->", re.DOTALL)

# Pages that anyone reads who decides. Others have tables with tests of their own.
READ = ("why", "embedding", "troubleshooting", "stability", "tutorial", "choosing-a-backend")


def loose_figures(text: str) -> list[str]:
    """Return the figures of a page that stand in no record and in no example."""
    plain = CODE.sub("", FIGURE.sub("", text))
    return MEASURED.findall(" ".join(plain.split()))


@pytest.mark.parametrize("page", [ROOT / "README.md", *(DOCS / f"{name}.md" for name in READ)])
def test_no_figure_is_typed_by_hand(page: Path) -> None:
    assert loose_figures(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text", ["it takes 5 µs", "4.9 times as fast", "by 12 %", "1,000 ms", "5 to 50 microseconds"]
)
def test_what_is_found(text: str) -> None:
    assert loose_figures(f"Then {text}, see\n`9 µs`.") != []


def test_pages_have_the_figures_of_the_records() -> None:
    assert check(RECORD) == ""
    for page in PAGES:
        assert "<!-- figure: " in page.read_text(encoding="utf-8")


def test_a_figure_is_written_from_a_record() -> None:
    (outcome, *_) = [one for one in record().benchmarks if one.report and one.report.ratios]
    assert outcome.report is not None
    ratio = outcome.report.ratios[0]
    name = f"{outcome.name} | {ratio.what} | {ratio.theirs.subject}"
    text = f"It is <!-- figure: {name} -->0<!-- /figure --> times as fast."
    assert filled(text, record().benchmarks) == text.replace("-->0<", f"-->{short(ratio)}<")
    with pytest.raises(FigureError, match=r"no record has the figure a \| b \| c"):
        filled("<!-- figure: a | b | c -->1<!-- /figure -->", record().benchmarks)


@pytest.mark.skipif(sys.platform != "linux", reason="forks share pages on Linux")
def test_the_picture_is_what_the_command_draws(tmp_path: Path) -> None:
    assert run("map", "-o", str(tmp_path / "map.svg")).returncode == 0
    assert texts(DOCS / "map.svg") == texts(tmp_path / "map.svg")


def texts(picture: Path) -> list[str]:
    root = ElementTree.fromstring(picture.read_text(encoding="utf-8"))
    return [text for one in root.iter() for text in one.itertext() if one.tag.endswith("text")]
