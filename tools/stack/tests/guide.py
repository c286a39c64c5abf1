"""Read the contributor's guide as a contributor who does what it says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^>]+) -->\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Step:
    """Something to do: a file to write, or commands to run."""

    line: int
    path: str
    text: str
    commands: tuple[str, ...]


def steps(page: Path) -> tuple[list[Step], list[str]]:
    """Return what a page says to do, in order, and the reasons of what is not run."""
    text = page.read_text(encoding="utf-8")
    found: list[Step] = []
    left_out: list[str] = []
    for block in _BLOCK.finditer(text):
        mark, line = block["mark"] or "", text.count("\n", 0, block.start()) + 1
        if mark.startswith("not run: "):
            left_out.append(mark.removeprefix("not run: "))
        elif mark.startswith("file: "):
            found.append(Step(line, mark.removeprefix("file: "), block["text"], ()))
        elif block["kind"] in ("console", "bash"):
            lines = block["text"].splitlines()
            assert all(one.startswith("$ ") for one in lines), f"{page}:{line}"
            found.append(Step(line, "", "", tuple(one.removeprefix("$ ") for one in lines)))
    return found, left_out
