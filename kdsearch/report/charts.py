"""Vega-Lite specifications of the report's panels. Colours are those of a light page; a page in the dark exchanges them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdsearch.report.values import is_share, short

Spec = dict[str, Any]
Row = Mapping[str, Any]
SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"
PALETTE = {
    "ink": "#1c2228",
    "soft": "#5a6570",
    "line": "#dfe3e8",
    "grid": "#eceff2",
    "bg": "#fffffe",
    "blue": "#22609f",
    "orange": "#b8560f",
    "green": "#24785a",
    "purple": "#a06fd8",
    "brown": "#4c160b",
    "red": "#a8242f",
    "grey": "#7b858f",
    "b32": "#c9d3de",
    "b16": "#8fb0d3",
    "b8": "#3f78b5",
    "b4": "#173f6e",
}
SERIES = ("blue", "orange", "green", "purple", "brown", "red", "grey")  # told apart also without red or green cones
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif"
CONFIG: Spec = {
    "background": None,
    "font": FONT,
    "view": {"stroke": None, "cursor": "default"},
    "axis": {
        "labelColor": PALETTE["soft"],
        "titleColor": PALETTE["soft"],
        "gridColor": PALETTE["grid"],
        "domainColor": PALETTE["grey"],
        "tickColor": PALETTE["grey"],
        "labelFontSize": 11,
        "titleFontSize": 11.5,
        "titleFontWeight": "normal",
        "labelOverlap": "greedy",
        "labelSeparation": 6,
        "labelLimit": 150,
        "tickCount": 5,
    },
    "axisY": {"domain": False, "ticks": False},
    "axisX": {"grid": False, "titleAnchor": "end", "titleAlign": "right"},
    "legend": {
        "orient": "bottom",
        "title": None,
        "columns": 2,
        "labelColor": PALETTE["soft"],
        "labelFontSize": 11.5,
        "labelLimit": 170,
        "symbolSize": 60,
        "symbolOpacity": 1,
        "offset": 8,
    },
    "title": {"color": PALETTE["soft"], "fontSize": 11.5, "fontWeight": "normal", "anchor": "start", "frame": "bounds"},
    "point": {"filled": True, "size": 46, "opacity": 1},
    "line": {"strokeWidth": 1.6},
    "range": {"category": [PALETTE[name] for name in SERIES]},
    "text": {"color": PALETTE["ink"], "fontSize": 11},
}


def number_format(name: str, share: bool | None = None) -> str:
    """d3's format of a metric's values."""
    return ".2%" if (is_share(name) if share is None else share) else ",.5~g"


def axis(
    field: str, title: str, values: Sequence[float], *, log: bool = False, share: bool = False, zero: bool = False
) -> Spec:
    """A quantitative axis with some air; logarithmic only where all values are positive and differ."""
    wide = log and bool(values) and min(values) > 0 and max(values) > 1.5 * min(values)
    scale: Spec = {"type": "log", "nice": False, "padding": 10} if wide else {"zero": zero, "nice": zero}
    if not wide and not zero:
        scale |= {"padding": 10}
    if len(set(values)) == 1 and not zero:  # one value alone: a range around it
        only, room = values[0], 0.05 * abs(values[0]) or (0.05 if share else 0.5)
        low, high = only - room, only + room
        scale |= {"domain": [max(low, 0.0), min(high, 1.0)] if share and 0 <= only <= 1 else [low, high]}
    large = max(map(abs, values), default=0) >= 1e4
    ticks: Spec = {"format": ".3~%" if share else ".3~s" if large else ",.4~g"}
    return {"field": field, "type": "quantitative", "title": title, "scale": scale, "axis": ticks}


def upright(channel: Spec) -> Spec:
    """A y axis, which the panel's title names."""
    return {**channel, "axis": {**channel["axis"], "title": None}}


def tips(*fields: tuple[str, str] | tuple[str, str, str]) -> list[Spec]:
    """What a mark's tooltip says: (field, name) of a text, (field, name, format) of a number."""
    return [
        {"field": each[0], "title": each[1], "type": "nominal"}
        if len(each) == 2
        else {"field": each[0], "title": each[1], "type": "quantitative", "format": each[2]}
        for each in fields
    ]


def kinds(order: Sequence[tuple[str, str, str]], present: Sequence[str]) -> Spec:
    """Colour and shape of `kind`, one legend for both; (name, colour, shape), those that occur."""
    here = [each for each in order if each[0] in present]
    named = [name for name, _, _ in here]
    return {
        "color": {
            "field": "kind",
            "type": "nominal",
            "title": None,
            "scale": {"domain": named, "range": [PALETTE[colour] for _, colour, _ in here]},
        },
        "shape": {
            "field": "kind",
            "type": "nominal",
            "title": None,
            "scale": {"domain": named, "range": [shape for _, _, shape in here]},
        },
    }


def zoom(name: str) -> Spec:
    """Drag to move, shift and wheel to zoom, double click to reset: the wheel alone goes on scrolling the page."""
    return {
        "name": f"zoom_{name}",
        "select": {"type": "interval", "zoom": "wheel![event.shiftKey]"},
        "bind": "scales",
    }


def chart(
    title: str, description: str, rows: Sequence[Row], layers: Sequence[Spec], height: int = 250, **more: Any
) -> Spec:
    """A panel of layers over one data set. `title` names the y axis, above it, so that nobody reads sideways."""
    return {
        "$schema": SCHEMA,
        "title": title,
        "description": description,
        "data": {"values": list(rows)},
        "width": "container",
        "height": height,
        **more,
        "layer": list(layers),
    }


def staircase(field: str, x: Spec, y: Spec, colour: str = "ink") -> Spec:
    """Flat until the next row that has `field`: a front, or the best so far."""
    return {
        "transform": [{"filter": {"field": field, "equal": True}}],
        "mark": {"type": "line", "interpolate": "step-after", "color": PALETTE[colour], "opacity": 0.6, "aria": False}
        | {"strokeWidth": 1.2},
        "encoding": {"x": x, "y": y, "order": {"field": x["field"], "type": "quantitative"}},
    }


def label(text: object) -> str:
    """A name that fits a legend or an axis."""
    return short(text, 28)
