"""Diagrams are what the script draws, say in words what they show, and are seen on pages."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from scripts.diagrams import DIAGRAMS, FOLDER, WIDTH, main
from scripts.drawing import width_of
from tests.support.docs_pages import DOCS

SVG = "{http://www.w3.org/2000/svg}"
SHOWN = re.compile(r"^!\[([^\]]+)\]\(diagrams/(\S+)\.svg\)$", re.MULTILINE)


def drawn(name: str) -> ElementTree.Element:
    return ElementTree.fromstring(DIAGRAMS[name]().svg())


def test_the_files_are_what_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0
    assert {path.stem for path in FOLDER.iterdir()} == set(DIAGRAMS)
    assert main(["--check", "--folder", str(tmp_path)]) == 1
    assert "is out of date" in capsys.readouterr().err
    assert main(["--folder", str(tmp_path)]) == 0
    assert main(["--check", "--folder", str(tmp_path)]) == 0


def test_each_is_on_a_page_with_an_alternative_text() -> None:
    shown = [
        match for page in DOCS.glob("*.md") for match in SHOWN.findall(page.read_text("utf-8"))
    ]
    assert {name for _, name in shown} == set(DIAGRAMS)
    assert all(len(text.split()) > 5 for text, _ in shown)


@pytest.mark.parametrize("name", DIAGRAMS)
def test_each_says_in_words_what_it_shows(name: str) -> None:
    root = drawn(name)
    assert root.attrib["role"] == "img"
    assert len(root.attrib["aria-label"].split()) > 20
    assert root.findtext(f"{SVG}title")


@pytest.mark.parametrize("name", DIAGRAMS)
def test_nothing_leaves_a_diagram(name: str) -> None:
    """Not its boxes; nor its texts, as wide as a reader's font may make them."""
    root = drawn(name)
    _, _, _, height = map(int, root.attrib["viewBox"].split())
    for box in root.iter(f"{SVG}rect"):
        assert float(box.attrib["x"]) + float(box.attrib["width"]) <= WIDTH
        assert float(box.attrib["y"]) + float(box.attrib["height"]) <= height
    for text in root.iter(f"{SVG}text"):
        words, anchor = text.text or "", text.attrib.get("text-anchor", "start")
        size = 12 if "small" in text.attrib.get("class", "") else 13
        before = {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor]
        left = float(text.attrib["x"]) - before * width_of(words, size)
        assert left >= 0, words
        assert left + width_of(words, size) <= WIDTH, words
        assert 8 < float(text.attrib["y"]) < height, words
