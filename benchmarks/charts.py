"""Charts of the performance pages, drawn from the figures of records and from nothing else.

A benchmark needs no code here: what it measured of several subjects becomes bars, and its targets
become dots.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from benchmarks.harness import Measurement, Ratio, Report
from benchmarks.suite import Outcome
from benchmarks.tables import figure, value
from scripts.drawing import Anchor, Drawing, width_of

__all__ = ["bars", "distance", "targets"]

WIDTH = 420  # so that a phone shows it at about its own size
BAR = 8
ROW, HEADING, GAP = 18 + BAR, 18, 14
NARROWEST = 2  # of a bar, in pixels, so that it is seen
MOST = 6  # tasks of a chart; the tables have all of them

# The scale of the targets: from a tenth of what is asked to a hundred times as good.
WORST, BEST = -1, 2
DOT = 4


class _Group(NamedTuple):
    """What one task measured of each subject, in one unit."""

    what: str
    rows: tuple[Measurement, ...]


def bars(report: Report) -> Drawing | None:
    """Draw what is measured of several subjects, longer for more; None if there is nothing.

    The bars of a task share a scale that begins at zero; other tasks have other scales.
    """
    every = list(_groups(report))
    groups = every[:MOST]
    if not groups:
        return None
    theirs = {one.theirs.subject for one in report.ratios}
    theirs -= {one.ours.subject for one in report.ratios}
    headings = [textwrap.wrap(_heading(one), 56) for one in groups]
    height = sum(HEADING * len(lines) for lines in headings)
    height += sum(ROW * len(one.rows) + GAP for one in groups)
    about = "; ".join(f"{one.what}: {_said(one.rows)}" for one in groups)
    if len(every) > len(groups):
        height += HEADING
    drawing = Drawing(WIDTH, height, report.title, about)
    y = 0
    for group, heading in zip(groups, headings, strict=True):
        for line in heading:
            y += HEADING
            drawing.text(0, y - 5, line, "strong")
        most = max(row.value for row in group.rows)
        for row in group.rows:
            found = figure(row.value)
            room = int((WIDTH - width_of(found, 12)) / width_of("n", 12)) - 2
            length = max(WIDTH * row.value / most if most else 0, NARROWEST)
            drawing.text(0, y + 12, _short(row.subject, room), "small quiet")
            drawing.text(WIDTH, y + 12, found, "small", "end")
            kind = "theirs" if row.subject in theirs else "ours"
            drawing.box(0, y + 16, length, BAR, kind)
            y += ROW
        y += GAP
    if len(every) > len(groups):
        rest = f"and {len(every) - len(groups)} more, in the tables"
        drawing.text(0, height - 5, rest, "small quiet")
    return drawing


def targets(outcomes: Iterable[Outcome]) -> Drawing | None:
    """Draw how far each figure is from its target, a dot each; None if there are no targets."""
    found = {one.name: one.report.targeted() for one in outcomes if one.report}
    found = {name: figures for name, figures in found.items() if figures}
    if not found:
        return None
    left = 12 + max(width_of(name) for name in found)
    step = (WIDTH - 14 - left) / (BEST - WORST)
    columns = {name: _columns(figures, left, step) for name, figures in found.items()}
    tall = {name: 10 + 9 * max(map(len, places.values())) for name, places in columns.items()}
    height = 42 + sum(max(one, 22) for one in tall.values())
    figures = [one for group in found.values() for one in group]
    missed = sum(not one.met for one in figures)
    about = f"{len(figures) - missed} of {len(figures)} figures meet their targets"
    drawing = Drawing(WIDTH, height, "How far each figure is from its target", about)
    for power, label in (
        (-1, "a tenth"),
        (0, "target"),
        (1, "10\N{MULTIPLICATION SIGN}"),
        (2, "100\N{MULTIPLICATION SIGN}"),
    ):
        x = left + step * (power - WORST)
        anchor: Anchor = "end" if power == BEST else "middle"
        drawing.text(x, 14, label, "small strong" if power == 0 else "small quiet", anchor)
        drawing.path(f"M{x:.4g} 20V{height - 22}", "arrow" if power == 0 else "rule")
    y = 24
    for name, places in columns.items():
        bottom = y + max(tall[name], 22)
        drawing.text(left - 12, (y + bottom) / 2 + 4, name, "small", "end")
        for x, column in places.items():
            for number, one in enumerate(column):
                _mark(drawing, x, bottom - 9 - 9 * number, met=bool(one.met))
        drawing.path(f"M{left:.4g} {bottom}H{WIDTH}")
        y = bottom
    _mark(drawing, left + DOT, height - 7, met=True)
    drawing.text(left + 14, height - 3, "met", "small quiet")
    _mark(drawing, left + 58, height - 7, met=False)
    drawing.text(left + 68, height - 3, "missed; further right is better", "small quiet")
    return drawing


def distance(one: Measurement | Ratio) -> float:
    """Return the power of ten by which a figure is better than its target; worse is negative.

    It ends at the ends of the scale.
    """
    if one.target is None:
        raise ValueError(f"{one.what} has no target")
    better, worse = one.target.limit, one.value
    if not one.target.at_most:
        better, worse = worse, better
    if better == worse:
        return 0
    if worse <= 0 or better <= 0:
        return BEST if one.met else WORST
    return min(max(math.log10(better / worse), WORST), BEST)


def _columns(
    figures: Sequence[Measurement | Ratio], left: float, step: float
) -> dict[float, list[Measurement | Ratio]]:
    """Return the figures by where their dots are; a dot is on one side of its target or at it."""
    columns: dict[float, list[Measurement | Ratio]] = {}
    wide = 2 * DOT + 2
    for one in sorted(figures, key=lambda figure: bool(figure.met)):
        place = step * distance(one) / wide
        whole = math.floor(place) if place < 0 else math.floor(place + 1) if place else 0
        whole = min(max(whole, math.ceil(step * WORST / wide)), math.floor(step * BEST / wide))
        columns.setdefault(left - step * WORST + wide * whole, []).append(one)
    return columns


def _mark(drawing: Drawing, x: float, y: float, *, met: bool) -> None:
    """Draw a disc for what is met and a lozenge for what is missed: not by colour alone."""
    if met:
        drawing.dot(round(x, 1), y, DOT, "ours")
    else:
        drawing.path(f"M{x - 5:.4g} {y:g}l5 -5l5 5l-5 5z", "missed")


def _groups(report: Report) -> Iterator[_Group]:
    """Yield what has bars: all that is compared, or what several subjects did if nothing is."""
    compared = {(one.what, side.unit) for one in report.ratios for side in (one.ours, one.theirs)}
    groups: dict[tuple[str, str], dict[str, Measurement]] = {}
    sides = (side for one in report.ratios for side in (one.ours, one.theirs))
    for row in (*report.measurements, *sides):
        groups.setdefault((row.what, row.unit), {}).setdefault(row.subject, row)
    for key, rows in groups.items():
        if len(rows) > 1 and (not compared or key in compared):
            yield _Group(key[0], tuple(rows.values()))


def _heading(group: _Group) -> str:
    unit = group.rows[0].unit
    return f"{group.what} ({unit})" if unit else group.what


def _said(rows: Iterable[Measurement]) -> str:
    return ", ".join(f"{row.subject} {value(row)}" for row in rows)


def _short(subject: str, room: int) -> str:
    return textwrap.shorten(subject, room, placeholder=" …")
