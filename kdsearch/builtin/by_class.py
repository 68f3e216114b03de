"""A figure of what is judged class by class: bars of the worst classes, and every class in a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kdsearch.kinds import Figure, Table

DRAWN = 30  # classes that a chart can name; of more, the worst are shown and the rest stands in the table
BLUE = "#22609f"


@dataclass(frozen=True)
class Row:
    """One class: a share in [0, 1] that it is judged by, a second one where it has that, and how many it is of."""

    name: str
    value: float
    other: float | None
    n: int


@dataclass(frozen=True)
class Words:
    """What the figure says.

    Args:
        title: of the chart. told: what is read to those who do not see it, before the worst five. says: the caption.
        heads: of the two shares and the number. digits: after the point of a per cent.
    """

    title: str
    told: str
    says: str
    heads: tuple[str, str, str]
    digits: int


def by_class(rows: Sequence[Row], words: Words) -> Figure:
    """Figure `classes`, the worst class first."""
    rows = sorted(rows, key=lambda row: (row.value, row.name))
    shown = rows[:DRAWN]
    percent = {"format": f".{words.digits}%", "type": "quantitative"}
    value, other, number = words.heads
    tooltip = [
        {"field": "name", "title": "class", "type": "nominal"},
        {"field": "value", "title": value, **percent},
        {"field": "other", "title": other, **percent},
        {"field": "n", "title": number, "type": "quantitative"},
    ]
    chart = bars(words.title, words.told, [asdict(row) for row in shown], "value", tooltip)
    body = [[row.name, share(row.value, words.digits), share(row.other, words.digits), row.n] for row in rows]
    says = words.says + (f" The {DRAWN} worst of {len(rows)}." if len(rows) > DRAWN else "")
    return Figure(
        "classes", "Class by class", says, [chart], [Table("Every class", ["class", value, other, number], body)]
    )


def bars(
    title: str, told: str, rows: Sequence[Mapping[str, Any]], field: str, tooltip: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """A bar a row, in their order, named by its `name`, as long as its `field`, a share, which stands at its end."""
    worst = "; ".join(f"{row['name']} {100 * row[field]:.1f} %" for row in rows[:5])
    return {
        "title": title,
        "description": f"{told}, the worst first: {worst}",
        "data": {"values": list(rows)},
        "width": "container",
        "height": {"step": 19},
        "encoding": {
            "y": {"field": "name", "type": "nominal", "sort": [row["name"] for row in rows], "title": None},
            "x": {"field": field, "type": "quantitative", "title": None, "axis": {"format": "%"}}
            | {"scale": {"domain": [0, 1]}},
            "tooltip": list(tooltip),
        },
        "layer": [
            {"mark": {"type": "bar", "height": {"band": 0.6}, "color": BLUE}},
            {
                "mark": {"type": "text", "align": "left", "dx": 4, "fontSize": 10, "aria": False},
                "encoding": {"text": {"field": field, "type": "quantitative", "format": ".1%"}},
            },
        ],
    }


def share(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{100 * value:.{digits}f} %"
