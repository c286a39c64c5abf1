"""The charts of a report, as Vega-Lite specifications.

Colours are variables of the page, so that they follow its light or dark scheme.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np

from kvpool.sizing._ages import Ages
from kvpool.sizing._report import SizingReport

__all__ = ["Unit", "ages_chart", "curves_chart", "unit_of"]

Chart = dict[str, Any]

_POINTS = 80  # of a curve
_COLOURS = 10  # of the page, `--c0` to `--c9`
_BOUND = "clairvoyant"

_CONFIG: Final[Chart] = {
    "background": "transparent",
    "font": "system-ui, 'Segoe UI', Roboto, Arial, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--soft)",
        "titleColor": "var(--soft)",
        "titleFontWeight": "normal",
        "gridColor": "var(--line)",
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "labelFontSize": 12,
        "titleFontSize": 12,
    },
    "legend": {"labelColor": "var(--ink)", "labelFontSize": 12, "symbolStrokeWidth": 3},
}


class Unit(NamedTuple):
    """What sizes are counted in.

    Parameters
    ----------
    name : str
    blocks : float
        How many blocks one of it is.
    """

    name: str
    blocks: float


def unit_of(report: SizingReport) -> Unit:
    """Return the unit of the sizes in a report: GiB, or blocks if no layout was given."""
    nbytes = report.bytes_per_block
    if nbytes is None:
        return Unit("blocks", 1)
    largest = report.sizes[-1] * nbytes
    return Unit("GiB", 2**30 / nbytes) if largest > 2**28 else Unit("MiB", 2**20 / nbytes)


def curves_chart(report: SizingReport) -> Chart:
    """Return the hit ratio over the size of the pool: all policies and both bounds."""
    unit = unit_of(report)
    first, last = report.sizes[0], report.sizes[-1]
    sizes = sorted(
        {*report.sizes, *np.geomspace(first, last, _POINTS).round().astype(int).tolist()}
    )
    curves = {**report.curves, _BOUND: report.bound}
    infinite = report.reusable / report.references
    rows = [
        {"size": size / unit.blocks, "policy": name, "ratio": curve.hit_ratio(size)}
        for name, curve in curves.items()
        for size in sizes
    ]
    names = list(report.curves)
    colours = [f"var(--c{number % _COLOURS})" for number in range(len(names))]
    x = {
        "field": "size",
        "type": "quantitative",
        "scale": {"type": "log", "nice": False},
        "title": f"size of the pool, {unit.name}",
        "axis": {
            "format": "~s" if unit.name == "blocks" else ",~r",
            "tickCount": 6,
            "grid": False,
            "labelSeparation": 10,
        },
    }
    colour = {
        "field": "policy",
        "type": "nominal",
        "scale": {"domain": [*names, _BOUND], "range": [*colours, "var(--soft)"]},
        "legend": {
            "orient": "bottom",
            "title": None,
            "columns": {"expr": "width < 480 ? 3 : 6"},
            "symbolType": "stroke",
        },
    }
    y = {
        "field": "ratio",
        "type": "quantitative",
        "title": "hit ratio",
        "axis": {"format": ".0%", "tickCount": 6},
        "scale": {"domain": [0, max(infinite * 1.08, 0.01)]},
    }
    size_format = ",.0f" if unit.name == "blocks" else ",.1f"
    tooltip = [
        {"field": "size", "type": "quantitative", "title": unit.name, "format": size_format},
        *(
            {"field": _path(name), "type": "quantitative", "title": name, "format": ".1%"}
            for name in (*names, _BOUND)
        ),
    ]
    dash = {
        "condition": {"test": f"datum.policy === '{_BOUND}'", "value": [5, 4]},
        "value": [1, 0],
    }
    width = {"condition": {"test": "datum.policy === 'lru'", "value": 3}, "value": 1.75}
    return {
        "config": _CONFIG,
        "width": "container",
        "height": 340,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "data": {"values": rows},
        "encoding": {"x": x},
        "layer": [
            {
                "mark": {"type": "line", "interpolate": "linear", "clip": True},
                "encoding": {"y": y, "color": colour, "strokeDash": dash, "strokeWidth": width},
            },
            {
                "data": {"values": [{"ratio": infinite}]},
                "mark": {"type": "rule", "strokeDash": [2, 3], "color": "var(--soft)"},
                "encoding": {"y": y, "x": None},
            },
            {
                "data": {"values": [{"ratio": infinite, "label": f"infinite pool {infinite:.1%}"}]},
                "mark": {
                    "type": "text",
                    "align": "left",
                    "baseline": "bottom",
                    "dx": 4,
                    "dy": -3,
                    "color": "var(--soft)",
                    "fontSize": 12,
                },
                "encoding": {"y": y, "x": {"value": 0}, "text": {"field": "label"}},
            },
            {
                "transform": [{"pivot": "policy", "value": "ratio", "groupby": ["size"]}],
                "mark": {"type": "rule", "color": "var(--soft)"},
                "encoding": {
                    "opacity": {
                        "condition": {"param": "hover", "empty": False, "value": 0.6},
                        "value": 0,
                    },
                    "tooltip": tooltip,
                },
                "params": [
                    {
                        "name": "hover",
                        "select": {
                            "type": "point",
                            "fields": ["size"],
                            "nearest": True,
                            "on": "pointerover",
                            "clear": "pointerout",
                        },
                    }
                ],
            },
        ],
    }


def ages_chart(ages: Ages, what: str) -> Chart:
    """Return how many blocks have which age, as bars.

    Parameters
    ----------
    ages : Ages
    what : str
        What is counted, for the axis.
    """
    labels = [f"{_time(low)} to {_time(high)}" for low, high in pairwise(ages.edges)]
    labels.append(f"over {_time(ages.edges[-1])}")
    filled = [number for number, count in enumerate(ages.counts) if count]
    shown = range(filled[0], filled[-1] + 1) if filled else range(len(labels))
    rows = [{"age": labels[number], "count": ages.counts[number]} for number in shown]
    return {
        "config": _CONFIG,
        "width": "container",
        "height": {"step": 22},
        "autosize": {"type": "fit-x", "contains": "padding"},
        "data": {"values": rows},
        "mark": {"type": "bar", "color": "var(--c1)"},
        "encoding": {
            "y": {
                "field": "age",
                "type": "ordinal",
                "sort": None,
                "title": None,
                "axis": {"domain": False, "ticks": False, "labelPadding": 6, "minExtent": 96},
            },
            "x": {
                "field": "count",
                "type": "quantitative",
                "title": what,
                "axis": {"format": "~s", "tickCount": 4},
            },
            "tooltip": [
                {"field": "age", "title": "age"},
                {"field": "count", "type": "quantitative", "title": what, "format": ","},
            ],
        },
    }


def _path(name: str) -> str:
    """Return a name as a field of Vega, in which dots and brackets have a meaning."""
    return "".join(f"\\{one}" if one in ".[]\\" else one for one in name)


def _time(seconds: int) -> str:
    for length, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds // length} {name}"
    return f"{seconds} s"
