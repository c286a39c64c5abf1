"""The pages of the documentation, as their readers follow them: block after block."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["DOCS", "ROOT", "Block", "blocks", "run_python"]

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

_FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    text: str
    line: int


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    for match in _FENCED.finditer(text):
        yield Block(match[1], match[2], text.count("\n", 0, match.start()) + 2)


def run_python(page: Path, block: Block, names: dict[str, Any]) -> None:
    """Run a block of Python with the names that the blocks before it have left."""
    exec(compile("\n" * (block.line - 1) + block.text, page, "exec"), names)
