"""The diagrams of the docs: how pages, forks, leases, the prefix tree and tiers work.

They are drawn here so that all have one style; `docs/diagrams` has the files.

python -m scripts.diagrams [--folder FOLDER] [--check]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from scripts.drawing import Drawing

__all__ = ["DIAGRAMS", "FOLDER", "main"]

FOLDER = Path(__file__).parents[1] / "docs/diagrams"

WIDTH = 420  # a phone shows it at about its own size
CELL = 20


def pages() -> Drawing:
    """Draw what an elastic entry reserves, and what it is charged with."""
    drawing = Drawing(
        WIDTH,
        238,
        "Reserved addresses and charged pages",
        "Each head of an entry has a range of addresses for its longest conversation. Only the"
        " pages of its tokens are memory and count against the capacity; the next page is charged"
        " when an append needs it, and goes back when tokens are truncated or evicted.",
    )
    drawing.text(0, 15, "Addresses of an entry: reserved, cost nothing", "strong")
    for number in range(3):
        y = 26 + 28 * number
        drawing.text(0, y + 14, f"head {number}", "small quiet")
        _cells(drawing, 60, y, "aaa" + "." * 15)
        drawing.text(60 + 3.5 * CELL, y + 14, "+" if number == 0 else "", "small quiet", "middle")
    drawing.text(60 + 7.5 * CELL, 24 + 28 * 3 + 14, "+  the page of the next append", "small quiet")
    for number in range(3):
        drawing.arrow(60 + CELL * (number + 0.5), 106, 60 + CELL * (number + 6.5), 164)
    drawing.text(0, 158, "Memory", "strong")
    _cells(drawing, 60, 168, "aaaaaaaaabbbbbb...")
    drawing.path(f"M60 196V200H{60 + 18 * CELL}V196", "arrow")
    drawing.text(60 + 9 * CELL, 214, "capacity of the pool", "small quiet", "middle")
    _legend(drawing, 60, 224, ("a", "this entry"), ("b", "others"), (".", "not there"))
    return drawing


def forks() -> Drawing:
    """Draw how a fork shows the pages of its parent."""
    drawing = Drawing(
        WIDTH,
        236,
        "A fork shares pages with its parent",
        "The addresses of the fork show the pages of its parent. The page in which both go on is"
        " copied when the fork writes to it, and later pages of the fork are its own. Shared pages"
        " are in memory, and are charged, once.",
    )
    drawing.text(0, 18, "Parent", "strong")
    _cells(drawing, 60, 4, "aaaaaa" + "." * 12)
    drawing.text(0, 116, "Pages", "strong")
    _cells(drawing, 60, 102, "aaaaaabb")
    drawing.text(60 + 8 * CELL + 10, 110, "shared pages are there,", "small quiet")
    drawing.text(60 + 8 * CELL + 10, 125, "and charged, once", "small quiet")
    drawing.text(0, 212, "Fork", "strong")
    _cells(drawing, 60, 198, "aaaaabb" + "." * 11)
    for number in range(6):
        drawing.arrow(60 + CELL * (number + 0.5), 26, 60 + CELL * (number + 0.5), 100)
    for number in range(7):
        start = 60 + CELL * (number + 0.5)
        drawing.arrow(start, 196, start + (CELL if number > 4 else 0), 124)
    drawing.text(60 + 8 * CELL + 10, 166, "copied at the first write,", "small quiet")
    drawing.text(60 + 8 * CELL + 10, 181, "and what the fork appended", "small quiet")
    _legend(drawing, 60, 224, ("a", "of the parent"), ("b", "of the fork"), (".", "reserved"))
    return drawing


def leases() -> Drawing:
    """Draw how the bytes of a block outlive its entry while a view shows them."""
    drawing = Drawing(
        WIDTH,
        190,
        "A view is a lease",
        "A view of an entry leases its block. When the entry is removed while the view lives, the"
        " entry ends at once, but its bytes stay as they are until the view has ended. While it"
        " is leased, a block is not evicted.",
    )
    start, view, removed, ended, end = 60, 130, 250, 350, WIDTH
    for x, words in ((view, "entry.keys()"), (removed, "removed"), (ended, "del view")):
        drawing.text(x, 14, words, "code", "middle")
        drawing.path(f"M{x} 20V146")
    lanes = (
        ("entry", start, removed, "a", "in use"),
        ("view", view, ended, "b", "shows these bytes, and only these"),
        ("bytes", start, ended, "c", "kept"),
    )
    for number, (name, left, right, kind, words) in enumerate(lanes):
        y = 30 + 40 * number
        drawing.text(0, y + 18, name, "strong")
        drawing.box(left, y, right - left, 27, kind)
        drawing.text((left + right) / 2, y + 18, words, "small", "middle")
    drawing.box(ended, 110, end - ended, 27, "empty")
    drawing.text((ended + end) / 2, 128, "free", "small", "middle")
    drawing.path(f"M{view} 152V158H{ended}V152", "arrow")
    drawing.text(
        (view + ended) / 2, 176, "leased: not evicted, not given to others", "small quiet", "middle"
    )
    return drawing


def prefix_tree() -> Drawing:
    """Draw how a prompt finds what the pool holds of it."""
    drawing = Drawing(
        WIDTH,
        270,
        "The prefix tree",
        "A path from the root is the beginning of some conversations; each session holds the path"
        " that ends at its name. A new prompt follows the tree as far as it is equal: those tokens"
        " are reused, and the rest is computed.",
    )
    drawing.text(0, 15, "New prompt", "strong")
    for x, width, kind, words in (
        (100, 110, "a", "system prompt"),
        (212, 60, "a", "7 8 9"),
        (274, 40, "empty", "6"),
    ):
        _named(drawing, x, 0, width, kind, words)
    drawing.path("M100 30V34H272V30", "arrow")
    drawing.text(186, 49, "reused", "small quiet", "middle")
    drawing.path("M274 30V34H314V30", "arrow")
    drawing.text(282, 49, "computed", "small quiet")
    drawing.path("M0 64H420")
    drawing.text(0, 97, "Tree", "strong")
    _named(drawing, 150, 82, 120, "a", "system prompt")
    drawing.arrow(190, 106, 130, 140)
    drawing.arrow(230, 106, 290, 140)
    _named(drawing, 90, 142, 80, "a", "7 8 9")
    _named(drawing, 250, 142, 80, "b", "5 5")
    drawing.arrow(130, 166, 130, 200)
    _named(drawing, 90, 202, 80, "b", "3 4")
    for x, y, name in ((178, 218, "held by chat/1"), (338, 158, "by chat/2")):
        drawing.text(x, y, name, "small quiet")
    _legend(drawing, 90, 252, ("a", "equal to the prompt"), ("b", "differs"))
    return drawing


def tiers() -> Drawing:
    """Draw what goes to tiers and what comes back."""
    drawing = Drawing(
        WIDTH,
        312,
        "Tiers behind the pool",
        "When a session is closed or evicted, its chunks are written to every tier."
        " A session that opens takes what the pool has, then what the tiers have, the first"
        " one first; a tier keeps a copy of what a later one had.",
    )
    levels = (
        ("Pool", "sessions, in memory", "aaaa", "of this process"),
        ("Tier 1", "chunks, on a disk", "cccccc", "survive a restart"),
        ("Tier 2", "chunks, on the network", "cccccccc", "other machines have them too"),
    )
    for number, (name, what, cells, note) in enumerate(levels):
        y = 20 + 100 * number
        drawing.box(0.5, y, WIDTH - 1, 62, "box", 4)
        drawing.text(12, y + 20, name, "strong")
        drawing.text(70, y + 20, what, "small")
        _cells(drawing, 12, y + 31, cells)
        drawing.text(WIDTH - 12, y + 46, note, "small quiet", "end")
    for number, (down, up) in enumerate(
        (("closed, evicted", "opened"), ("to every tier", "found there"))
    ):
        y = 82 + 100 * number
        drawing.arrow(110, y + 3, 110, y + 35)
        drawing.text(120, y + 23, down, "small quiet")
        drawing.arrow(290, y + 35, 290, y + 3)
        drawing.text(300, y + 23, up, "small quiet")
    drawing.text(12, 302, "A chunk is named by the hash of its tokens.", "small quiet")
    return drawing


DIAGRAMS: dict[str, Callable[[], Drawing]] = {
    "pages": pages,
    "forks": forks,
    "leases": leases,
    "prefix-tree": prefix_tree,
    "tiers": tiers,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the diagrams, or check that the files are what is drawn here."""
    parser = argparse.ArgumentParser(prog="python -m scripts.diagrams", description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the files are")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if one differs")
    options = parser.parse_args(arguments)
    if not options.check:
        options.folder.mkdir(exist_ok=True)
    for name, draw in DIAGRAMS.items():
        path = options.folder / f"{name}.svg"
        if not options.check:
            draw().write(path)
        elif not path.exists() or path.read_text(encoding="utf-8") != draw().svg():
            print(f"{path} is out of date: python -m scripts.diagrams writes it", file=sys.stderr)
            return 1
    return 0


def _cells(drawing: Drawing, x: float, y: float, kinds: str) -> None:
    """Draw pages or chunks beside each other, a letter each: a class, or a dot for an empty one."""
    for number, kind in enumerate(kinds):
        drawing.box(x + CELL * number, y, CELL - 2, CELL, "empty" if kind == "." else kind)


def _named(drawing: Drawing, x: float, y: float, width: float, kind: str, words: str) -> None:
    drawing.box(x, y, width, 24, kind)
    drawing.text(x + width / 2, y + 16, words, "small", "middle")


def _legend(drawing: Drawing, x: float, y: float, *entries: tuple[str, str]) -> None:
    for kind, words in entries:
        drawing.box(x, y, 12, 12, "empty" if kind == "." else kind)
        drawing.text(x + 17, y + 10, words, "small quiet")
        x += 34 + 6.6 * len(words)


if __name__ == "__main__":
    sys.exit(main())
