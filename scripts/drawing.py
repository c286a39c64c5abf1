"""Drawings of the docs: SVG that reads well on white and on dark pages.

A drawing names colours by classes. Its own style has a value of each for both kinds of pages, by
`prefers-color-scheme`; the site puts drawings into its pages, where its own switch decides
(`docs/_static/kvpool.css`). Text stays text: it can be selected, searched and read aloud.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from xml.sax.saxutils import escape, quoteattr

__all__ = ["STYLE", "Anchor", "Drawing", "width_of"]

Anchor = Literal["start", "middle", "end"]

STYLE = """
svg.kv { --ink: #1f2328; --quiet: #59636e; --line: #c4cbd3; --ours: #0969da; --theirs: #8c959f;
  --missed: #bc4c00; --a: #b6d7ff; --b: #ffd8a8; --c: #b7ebc6; --empty: #f1f3f5; }
@media (prefers-color-scheme: dark) {
  svg.kv { --ink: #e6edf3; --quiet: #9da7b1; --line: #4a525c; --ours: #58a6ff; --theirs: #7d8590;
    --missed: #f0883e; --a: #1f4b7f; --b: #7a4a12; --c: #1f5f35; --empty: #22272e; } }
svg.kv text { font: 13px system-ui, sans-serif; fill: var(--ink); }
svg.kv text.quiet { fill: var(--quiet); }
svg.kv text.small { font-size: 12px; }
svg.kv text.strong { font-weight: 600; }
svg.kv text.code { font-family: ui-monospace, monospace; font-size: 12px; }
svg.kv .ours { fill: var(--ours); } svg.kv .theirs { fill: var(--theirs); }
svg.kv .missed { fill: var(--missed); }
svg.kv .a { fill: var(--a); stroke: var(--line); }
svg.kv .b { fill: var(--b); stroke: var(--line); }
svg.kv .c { fill: var(--c); stroke: var(--line); }
svg.kv .empty { fill: var(--empty); stroke: var(--line); stroke-dasharray: 3 2; }
svg.kv .box { fill: none; stroke: var(--line); }
svg.kv .rule { fill: none; stroke: var(--line); }
svg.kv .arrow { fill: none; stroke: var(--quiet); stroke-width: 1.5; }
svg.kv .head { fill: var(--quiet); }
"""


def width_of(text: str, size: float = 13) -> float:
    """Return about how wide a text is; a little too much, as the font is the reader's."""
    return 0.57 * size * len(text)


@dataclass(slots=True)
class Drawing:
    """A drawing that grows by calls; `title` and `about` are what a screen reader says.

    `width` and `height` are in pixels, and so is every argument.
    """

    width: int
    height: int
    title: str
    about: str
    parts: list[str] = field(default_factory=list)

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: Anchor = "start") -> None:
        """Write a line of text, with its base at `y`."""
        place = f'x="{x:g}" y="{y:g}"' + (f' text-anchor="{anchor}"' if anchor != "start" else "")
        style = f' class="{kind}"' if kind else ""
        self.parts.append(f"<text {place}{style}>{escape(text)}</text>")

    def box(
        self, x: float, y: float, width: float, height: float, kind: str, corner: float = 2
    ) -> None:
        """Draw a rectangle."""
        place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
        self.parts.append(f'<rect class="{kind}" {place} rx="{corner:g}"/>')

    def path(self, steps: str, kind: str = "rule") -> None:
        """Draw a path, by its steps as SVG has them."""
        self.parts.append(f'<path class="{kind}" d="{steps}"/>')

    def dot(self, x: float, y: float, radius: float, kind: str) -> None:
        """Draw a disc."""
        self.parts.append(f'<circle class="{kind}" cx="{x:g}" cy="{y:g}" r="{radius:g}"/>')

    def arrow(self, x1: float, y1: float, x2: float, y2: float) -> None:
        """Draw an arrow from one place to another, straight and along an axis or a diagonal."""
        length = max(((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5, 1)
        along, across = (x2 - x1) / length, (y2 - y1) / length
        x, y = x2 - 7 * along, y2 - 7 * across
        self.path(f"M{x1:g} {y1:g}L{x:.4g} {y:.4g}", "arrow")
        left = f"{x - 4 * across:.4g} {y + 4 * along:.4g}"
        right = f"{x + 4 * across:.4g} {y - 4 * along:.4g}"
        self.path(f"M{x2:g} {y2:g}L{left}L{right}z", "head")

    def svg(self) -> str:
        """Return the file."""
        size = f'viewBox="0 0 {self.width} {self.height}" width="{self.width}"'
        names = f'role="img" aria-label={quoteattr(f"{self.title}. {self.about}")}'
        head = f'<svg class="kv" xmlns="http://www.w3.org/2000/svg" {size} {names}>'
        lines = [head, f"<title>{escape(self.title)}</title>", f"<style>{STYLE}</style>"]
        return "\n".join([*lines, *self.parts, "</svg>", ""])

    def write(self, path: Path) -> None:
        """Write the file."""
        path.write_text(self.svg(), encoding="utf-8", newline="\n")
