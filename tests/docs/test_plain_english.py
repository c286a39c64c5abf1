"""Docstrings, messages, help texts and pages use plain English.

The rules are in CONTRIBUTING. These patterns are the constructions that a reader stumbles over
most; each has a plain form.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.docs_pages import ROOT

FOLDERS = ("kvpool", "backends", "scripts", "tools")
PAGES = ("*.md", ".github/**/*.md", "changelog.d/*.md", "docs/**/*.md", "tools/**/*.md")
# Made from records, or kept as they were when they were written.
OTHER_PAGES = ("CHANGELOG.md", "docs/_build/", "docs/performance", "docs/stack/")

COMPARED = "longer|more|less|fewer|larger|smaller|later|earlier|faster|slower"
PATTERNS = {
    # "The key is no name"; but "there is no key" and "the key is no longer a name" are plain.
    rf"(?<!\bthere )\b(is|are) no (?!({COMPARED})\b)[a-z]": "say what it is not: is not a …",
    r"(?<!\bor )\bnone of\b": "say what is accepted, or: no …",
    r"\bso many\b": "name the number: this many, n tokens",
    r"\b(whoever|whomever|nobody|somebody)\b": "name the thread, the caller, the session",
    r"\bwho (goes|went|has to go|had to go)\b": "say what is evicted",
    r"\bgoes? first\b": "say what is evicted first",
    r"\bas can be\b": "say the limit",
    r"\b(?-i:(None|True|False) where)\b": "None if …",
    r"\bas for (`|the\b|those\b)": "repeat the line: a docstring is read in a tooltip",
}


class Text(NamedTuple):
    """A string of a source file, or a page."""

    file: str
    line: int
    text: str


def strings(file: str, source: str) -> Iterator[Text]:
    """Yield the strings of a module that hold more than one word, docstrings among them."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield Text(file, node.lineno, node.value)


def findings(text: Text) -> list[str]:
    """Return what is not plain in a text, with file and line."""
    # A sentence goes on in the next line, so the search is in one line, and lines are counted.
    words = [
        (word, number) for number, row in enumerate(text.text.split("\n")) for word in row.split()
    ]
    flat = " ".join(word for word, _ in words)
    found = []
    for pattern, advice in PATTERNS.items():
        for match in re.finditer(pattern, flat, re.IGNORECASE):
            line = text.line + words[flat.count(" ", 0, match.start())][1]
            found.append(f"{text.file}:{line}: {match[0]!r}: {advice}")
    return found


def modules() -> list[Path]:
    found = (file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))
    return sorted(found)


def pages() -> list[Path]:
    found = {page for pattern in PAGES for page in ROOT.glob(pattern)}
    return sorted(page for page in found if not name_of(page).startswith(OTHER_PAGES))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_strings_of_the_code() -> None:
    files = modules()
    assert len(files) > 100
    texts = (
        text for file in files for text in strings(name_of(file), file.read_text(encoding="utf-8"))
    )
    assert [found for text in texts for found in findings(text)] == []


def test_pages() -> None:
    files = pages()
    assert len(files) > 15
    texts = (Text(name_of(page), 1, page.read_text(encoding="utf-8")) for page in files)
    assert [found for text in texts for found in findings(text)] == []


@pytest.mark.parametrize(
    "text",
    [
        "'lots' is no size",
        "these are no\n    numbers",
        "x is none of a, b",
        "reserve so many",
        "goes to whoever asks",
        "who goes first",
        "as few as can be",
        "None where it is off",
        "As for `MemoryPool`.",
        "backend: as for `MemoryPool`",
    ],
)
def test_what_is_found(text: str) -> None:
    module = f'"""Summary.\n\nThen: {text}.\n"""\n'
    (first, *_) = [found for one in strings("a.py", module) for found in findings(one)]
    assert first.startswith("a.py:3: ")


@pytest.mark.parametrize(
    "text",
    [
        "a key that is no longer used",
        "there is no lock",
        "it is no larger than a page",
        "As a rule",
        "None if it is off",
        "the trace has no sessions",
    ],
)
def test_what_is_plain(text: str) -> None:
    assert findings(Text("a.py", 1, text)) == []
