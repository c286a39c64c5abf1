"""Figures in the text of pages: each is of a record, and is written from there.

A figure stands between two comments that Markdown does not show::

    <!-- figure: BENCHMARK :: WHAT :: OURS beside THEIRS -->4.9<!-- /figure -->

It says how many times `OURS` is as fast, as full, … as `THEIRS`. With one subject it is what was
measured, in percent if it is a part of something. Such a comment must not begin a
line, where Markdown would end the paragraph; and a ``|`` in it would end a cell of a table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from benchmarks.harness import Measurement, Ratio
from benchmarks.record import ROOT, RecordError
from benchmarks.suite import Outcome
from benchmarks.tables import value

__all__ = ["PAGES", "FigureError", "filled", "short"]

PAGES: tuple[Path, ...] = (
    ROOT / "README.md",
    ROOT / "docs/why.md",
    ROOT / "docs/elastic.md",
    ROOT / "docs/tiers.md",
)
"""The pages that have such figures."""

_FIGURE = re.compile(r"(<!-- figure: (.+?) :: (.+?) :: (.+?) -->)[^<]*(<!-- /figure -->)")


class FigureError(RecordError):
    """No record has a figure that a page names."""


def filled(text: str, outcomes: Iterable[Outcome]) -> str:
    """Return the text of a page with its figures as the records have them.

    Raises
    ------
    FigureError
        No record has such a figure.
    """
    figures: dict[tuple[str, str, str], Measurement | Ratio] = {}
    for outcome in outcomes:
        if outcome.report:
            for one in outcome.report.measurements:
                figures[outcome.name, one.what, one.subject] = one
            for ratio in outcome.report.ratios:
                figures[outcome.name, ratio.what, ratio.subject] = ratio

    def figure(match: re.Match[str]) -> str:
        name = match[2], match[3], match[4]
        if name not in figures:
            raise FigureError(f"no record has the figure {' :: '.join(name)}")
        return f"{match[1]}{short(figures[name])}{match[5]}"

    return _FIGURE.sub(figure, text)


def short(one: Measurement | Ratio) -> str:
    """Return a ratio in one to three digits, and a measurement with its unit or in percent."""
    if isinstance(one, Ratio):
        digits = 2 if one.value < 0.1 else 1 if one.value < 10 else 0
        return f"{one.value:,.{digits}f}"
    return f"{one.value:.2%}" if one.unit.startswith("of ") else value(one)
