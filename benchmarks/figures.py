"""Figures in the text of pages: each is a ratio of a record, and is written from there.

A figure stands between two comments that Markdown does not show::

    <!-- figure: BENCHMARK :: WHAT :: OURS beside THEIRS -->4.9<!-- /figure -->

It says how many times `OURS` is as fast, as full, … as `THEIRS`. Such a comment must not begin a
line, where Markdown would end the paragraph; and a ``|`` in it would end a cell of a table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from benchmarks.harness import Ratio
from benchmarks.record import ROOT, RecordError
from benchmarks.suite import Outcome

__all__ = ["PAGES", "FigureError", "filled", "short"]

PAGES: tuple[Path, ...] = (ROOT / "README.md", ROOT / "docs/why.md")
"""The pages that have such figures."""

_FIGURE = re.compile(r"(<!-- figure: (.+?) :: (.+?) :: (.+?) -->)[^<]*(<!-- /figure -->)")


class FigureError(RecordError):
    """No record has a ratio that a page names."""


def filled(text: str, outcomes: Iterable[Outcome]) -> str:
    """Return the text of a page with its figures as the records have them.

    Raises
    ------
    FigureError
        No record has such a ratio.
    """
    ratios = {
        (outcome.name, ratio.what, ratio.subject): ratio
        for outcome in outcomes
        if outcome.report
        for ratio in outcome.report.ratios
    }

    def figure(match: re.Match[str]) -> str:
        name = match[2], match[3], match[4]
        if name not in ratios:
            raise FigureError(f"no record has the figure {' :: '.join(name)}")
        return f"{match[1]}{short(ratios[name])}{match[5]}"

    return _FIGURE.sub(figure, text)


def short(ratio: Ratio) -> str:
    """Return a ratio in two or three digits."""
    return f"{ratio.value:.1f}" if ratio.value < 10 else f"{ratio.value:,.0f}"
