"""The plot of the README: tokens per second of each cache, drawn from a record of the benchmarks.

python -m benchmarks.decode_plot [--record FILE] [-o FILE]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.decode_cases import CASES, DYNAMIC, POOLED, STATIC, Case
from benchmarks.harness import Measurement, Ratio, Report
from benchmarks.page import record_of
from benchmarks.record import ROOT, Record, RecordError, read

__all__ = ["PLOT", "RECORD", "draw", "main"]

RECORD = record_of("decode")
PLOT = ROOT / "docs/decode.svg"

# Each has contrast enough on white and on the dark pages of code hosts; the ground is clear.
COLOURS = {POOLED: "#2f81f7", DYNAMIC: "#d9822b", STATIC: "#8b949e"}
LABELS = {POOLED: f"{POOLED}, times as fast as {DYNAMIC}"}
INK = "#7d8590"
WIDTH = 0.27  # of a bar; the distance of two groups is 1

STYLE: dict[str, Any] = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "sans-serif",
    "font.size": 11,
    "svg.fonttype": "path",  # the letters are drawn: a reader need not have the font
    "svg.hashsalt": "kvpool",  # the same record gives the same bytes
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the plot; return 1 if the record does not have the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode_plot", description=__doc__)
    parser.add_argument("--record", type=Path, default=RECORD, metavar="FILE")
    parser.add_argument("-o", "--output", type=Path, default=PLOT, metavar="FILE")
    options = parser.parse_args(arguments)
    try:
        draw(read(options.record), options.output)
    except RecordError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def draw(record: Record, path: Path) -> None:
    """Draw one panel for each case with targets; the file bears the time of the record.

    Raises
    ------
    RecordError
        A figure is not in the record.
    """
    cases = [case for case in CASES if case.has_targets]
    report = decode_report(record)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.4), layout="constrained")
        panels = figure.subplots(1, len(cases))
        for axes, case in zip(panels, cases, strict=True):
            draw_case(axes, case, report)
        panels[0].set_ylabel("tokens per second")
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=3, frameon=False)
        figure.savefig(path, transparent=True, metadata={"Date": record.taken.isoformat()})


def draw_case(axes: Any, case: Case, report: Report) -> None:
    """Draw a group of bars for each context, and what the pool gains over `DynamicCache`."""
    for number, name in enumerate(COLOURS):
        places = [group + (number - 1) * WIDTH for group in range(len(case.contexts))]
        speeds = [speed(report, case.decode(context), name).value for context in case.contexts]
        label = LABELS.get(name, name)
        bars = axes.bar(places, speeds, WIDTH * 0.92, label=label, color=COLOURS[name])
        if name == POOLED:
            gains = [gain(report, case.decode(context)) for context in case.contexts]
            labels = [f"{one.value:.1f}\N{MULTIPLICATION SIGN}" for one in gains]
            axes.bar_label(bars, labels, color=COLOURS[name], fontweight="bold", padding=2)
    axes.set_title(str(case.shape), fontsize=11)
    axes.set_xticks(range(len(case.contexts)), [f"{one >> 10}k" for one in case.contexts])
    axes.set_xlabel(f"tokens of context, {case.dtype}")
    axes.tick_params(length=0)
    axes.margins(y=0.12)


def decode_report(record: Record) -> Report:
    for outcome in record.benchmarks:
        if outcome.name == "decode" and outcome.report:
            return outcome.report
    raise RecordError("the record has no figures of the benchmark decode")


def speed(report: Report, what: str, name: str) -> Measurement:
    for one in report.measurements:
        if (one.what, one.subject) == (what, name):
            return one
    raise RecordError(f"the record does not tell of {name}: {what}")


def gain(report: Report, what: str) -> Ratio:
    for one in report.ratios:
        if one.what == what and one.theirs.subject == DYNAMIC:
            return one
    raise RecordError(f"the record does not compare with {DYNAMIC}: {what}")


if __name__ == "__main__":
    sys.exit(main())
