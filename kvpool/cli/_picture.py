"""SVG pictures of console output, without web fonts."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console, RenderableType

__all__ = ["save_svg"]

_COLUMNS = 64  # few enough to be read on a phone, where a picture is as wide as the page

# Rich's template without web fonts: each text has its length, so any fixed-width font works.
_SVG = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
    font-family: "Fira Code", "DejaVu Sans Mono", Menlo, Consolas, monospace;
    font-size: {char_height}px;
    line-height: {line_height}px;
}}
.{unique_id}-title {{ font: bold 18px sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def save_svg(scene: RenderableType, path: Path, title: str) -> None:
    """Write what a terminal with all colours would show, as SVG.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    console = Console(
        width=_COLUMNS,
        record=True,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        markup=False,
        highlight=False,
        emoji=False,
    )
    console.print(scene)
    console.save_svg(str(path), title=title, code_format=_SVG)
