"""The report as a page: one file with charts, which needs no network."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from copy import deepcopy
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from kvpool._optional_imports import load
from kvpool.sizing._charts import ages_chart, curves_chart
from kvpool.sizing._errors import SizingError
from kvpool.sizing._report import SHARES, SizingReport
from kvpool.sizing._words import describe

__all__ = ["page", "require_charts", "write_page"]

_CLIP = re.compile(r"\bclip\d+")
_STATIC_WIDTH = 620  # pixels of a chart where scripts do not run


def require_charts() -> Any:
    """Return the module that draws charts, `vl_convert`.

    Raises
    ------
    MissingExtraError
        The extra ``kvpool[report]`` is not installed.
    """
    return load("vl_convert", "report", "a page with charts")


def write_page(report: SizingReport, path: str | Path, title: str) -> None:
    """Write a report as one HTML file, which needs no network.

    Parameters
    ----------
    report : SizingReport
    path : str or Path
        An existing file is replaced.
    title : str
        The name of the trace.

    Raises
    ------
    MissingExtraError
        The extra ``kvpool[report]`` is not installed.
    SizingError
        The file cannot be written.
    """
    text = page(report, title)
    try:
        Path(path).write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise SizingError(f"cannot write {path}: {error.strerror or error}") from error


def page(report: SizingReport, title: str) -> str:
    """Return a report as an HTML page.

    Parameters
    ----------
    report : SizingReport
    title : str
        The name of the trace.

    Returns
    -------
    str
        With charts by Vega-Lite, whose scripts it contains. Where scripts do not run, the charts
        are pictures.

    Raises
    ------
    MissingExtraError
        The extra ``kvpool[report]`` is not installed.
    """
    library = require_charts()
    charts = {"curves": curves_chart(report)}
    if report.reusable:
        charts["ages"] = ages_chart(report.reuse_ages, "uses of a block after the first")
        charts["lives"] = ages_chart(report.lifetimes, "blocks used more than once")
    pictures = {name: _picture(library, name, chart) for name, chart in charts.items()}
    template = resources.files("kvpool.sizing").joinpath("page.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        title=escape(f"How big a pool {title} needs"),
        subtitle=escape(_subtitle(report)),
        answer="\n".join(f"<p>{escape(one)}</p>" for one in describe(report)),
        sections="\n".join(_sections(report, pictures)),
        charts=json.dumps(charts).replace("<", "\\u003c"),
        library=_inside_script(library.javascript_bundle()),
    )


def _picture(library: Any, name: str, chart: dict[str, Any]) -> str:
    """Return a chart as SVG, for readers whose browser runs no scripts."""
    still = deepcopy(chart) | {"width": _STATIC_WIDTH}
    svg: str = library.vegalite_to_svg(still)
    # The library counts its ids over all pictures that it ever drew.
    numbers = {one: str(number) for number, one in enumerate(dict.fromkeys(_CLIP.findall(svg)))}
    return _CLIP.sub(lambda match: f"{name}-clip{numbers[match[0]]}", svg)


def _inside_script(text: str) -> str:
    """Return a script in a form that cannot end the element that it is in."""
    return re.sub("<(?=!--|/?script)", r"\\x3c", text, flags=re.IGNORECASE)


def _subtitle(report: SizingReport) -> str:
    parts = [
        f"{report.requests:,} requests",
        f"{report.references:,} references to {report.blocks:,} blocks",
        f"{report.block_tokens:,} tokens per block",
    ]
    if report.layout is not None:
        parts.append(f"layout {report.layout}, {report.bytes_per_block:,} bytes per block")
    return "; ".join(parts) + "."


def _sections(report: SizingReport, pictures: dict[str, str]) -> Iterable[str]:
    exact = (
        ""
        if report.sample_rate == 1
        else (
            " LRU and the bounds are exact, the others are estimates from "
            f"{report.seeds} samples of {report.sample_rate:.1%}."
        )
    )
    yield _section(
        "Hit ratio by size of the pool",
        "Of all references to blocks, those that were resident. No policy can be above the "
        f"clairvoyant pool, which knows the future.{exact}",
        _chart("curves", pictures),
    )
    yield _section(
        "Pool for a share of what an infinite pool reuses",
        "In blocks." if report.bytes_per_block is None else "Below each size: the same in blocks.",
        _needs(report),
        _ratios(report),
    )
    if not report.reusable:
        return
    once = report.blocks - report.lifetimes.total
    yield '<div class="two">'
    yield _section(
        "From one use of a block to the next",
        f"Half are within {_seconds(report.reuse_ages.median)}, nine of ten within "
        f"{_seconds(report.reuse_ages.p90)}.",
        _chart("ages", pictures),
    )
    yield _section(
        "From the first use of a block to the last",
        f"{once:,} of {report.blocks:,} blocks are used once and are not counted here.",
        _chart("lives", pictures),
    )
    yield "</div>"


def _section(title: str, text: str, *content: str) -> str:
    words = f'<p class="soft">{escape(text)}</p>' if text else ""
    return f"<section><h2>{escape(title)}</h2>{words}{''.join(content)}</section>"


def _chart(name: str, pictures: dict[str, str]) -> str:
    return f'<div class="chart" id="{name}">{pictures[name]}</div>'


def _needs(report: SizingReport) -> str:
    head = ["policy", *(f"{share:.0%}" for share in SHARES), "knee"]
    rows = []
    for name, curve in report.curves.items():
        answers = [report.answer(name, share).blocks for share in SHARES]
        rows.append([escape(name), *(_size(report, one) for one in [*answers, curve.knee()])])
    return _table(head, rows)


def _ratios(report: SizingReport) -> str:
    curves = [*report.curves.values(), report.bound]
    head = ["size", *(curve.name for curve in curves)]
    rows = [
        [_size(report, size), *(f"{curve.hit_ratio(size):.2%}" for curve in curves)]
        for size in report.sizes
    ]
    return f"<details><summary>All measured sizes</summary>{_table(head, rows)}</details>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; cells are HTML."""
    first = "".join(f"<th>{escape(one)}</th>" for one in head)
    body = "".join(f"<tr>{''.join(f'<td>{one}</td>' for one in row)}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{first}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _size(report: SizingReport, blocks: int | None) -> str:
    if blocks is None:
        return "n/a"
    if report.bytes_per_block is None:
        return f"{blocks:,}"
    return f"{report.size_text(blocks)}<small>{blocks:,}</small>"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "no time"
    return f"{seconds:,.1f} s" if seconds < 120 else f"{seconds / 60:,.1f} minutes"
