"""Teacher beside student in a figure: who of them answers, and a line of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from kdsearch.errors import DataError, PluginError
from kdsearch.kinds import Batch, Predict, Services

T = TypeVar("T")
COLOURS = {"teacher": "#b8560f", "student": "#22609f"}


def compared(predict: Predict, services: Services, batch: Batch, field: str) -> dict[str, Predict]:
    """`teacher`, where the study has one that answers this batch's `field` in the student's shape, and `student`."""

    def teacher(given: Batch) -> Mapping[str, Any]:
        return services.predict("teacher", given)

    with suppress(PluginError, DataError, KeyError):  # no teacher of that name, or one that has no answer stored
        if teacher(batch)[field].shape[1:-1] == predict(batch)[field].shape[1:-1]:
            return {"teacher": teacher, "student": predict}
    return {"student": predict}


def of_each(who: Mapping[str, Predict], of: Callable[[Predict], T]) -> dict[str, T]:
    """`of` of each that answers, without a teacher that has no answer stored to what it is asked."""
    made: dict[str, T] = {}
    for name, predict in who.items():
        try:
            made[name] = of(predict)
        except DataError:
            if name != "teacher":
                raise
    return made


def lines(
    title: str,
    description: str,
    rows: Sequence[Mapping[str, Any]],
    x: tuple[str, str],
    y: tuple[str, str],
    share: bool = False,
    log: bool = False,
) -> dict[str, Any]:
    """A line of each `who` in the rows.

    Args:
        x, y: (field, what it is); x in the rows' order, y a share of 0 .. 1 or a number.
        log: y on a logarithmic axis.
    """
    who = [each for each in COLOURS if any(row["who"] == each for row in rows)]
    order = list(dict.fromkeys(row[x[0]] for row in rows))
    scale: dict[str, Any] = (
        {"domain": [0, 1]} if share else {"type": "log", "nice": False, "padding": 10} if log else {}
    )
    number = {"type": "quantitative", "format": ".1%" if share else ",.4~g"}
    return {
        "title": title,
        "description": description,
        "data": {"values": list(rows)},
        "width": "container",
        "height": 250,
        "mark": {"type": "line", "point": True},
        "encoding": {
            "x": {"field": x[0], "type": "ordinal", "sort": order, "title": x[1], "axis": {"labelAngle": 0}},
            "y": {
                "field": y[0],
                "type": "quantitative",
                "title": None,
                "scale": scale,
                "axis": {"format": "%" if share else ",.4~g"},
            },
            "color": {
                "field": "who",
                "type": "nominal",
                "title": None,
                "scale": {"domain": who, "range": [COLOURS[each] for each in who]},
            },
            "tooltip": [
                {"field": "who", "title": "who", "type": "nominal"},
                {"field": x[0], "title": x[1], "type": "nominal"},
                {"field": y[0], "title": y[1], **number},
                {"field": "n", "title": "of", "type": "quantitative"},
            ],
        },
    }
