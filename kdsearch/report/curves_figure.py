"""Loss and validation score by epoch, one line a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdsearch.kinds.figure import Figure, Table
from kdsearch.report.charts import Spec, axis, chart, label, tips, upright, zoom
from kdsearch.report.quality import quality_of
from kdsearch.report.values import general, mapping, number, plain, rows, scalar, short

Row = Mapping[str, Any]


def points(curves: Mapping[str, Sequence[Row]], key: str) -> list[dict[str, Any]]:
    """(epoch, value) of every entry that has the value; an entry without an epoch is counted."""
    return [
        {"x": at if (epoch := number(entry.get("epoch"))) is None else epoch, "y": value, "run": label(name)}
        for name, curve in curves.items()
        for at, entry in enumerate(curve)
        if (value := number(entry.get(key))) is not None
    ]


def panel(
    found: Sequence[dict[str, Any]], name: str, title: str, share: bool, may_be_wide: bool, runs: Sequence[str]
) -> Spec:
    """One line and its points a run. Losses that span decades stand on a logarithmic axis, scores never."""
    values = [row["y"] for row in found]
    wide = may_be_wide and min(values) > 0 and max(values) > 30 * min(values)
    x = axis("x", "epoch", [row["x"] for row in found])
    x["axis"] = {"format": "d", "tickMinStep": 1}
    y = upright(axis("y", title, values, log=wide, share=share))
    colour = {"field": "run", "type": "nominal", "title": None, "scale": {"domain": list(runs)}}
    tooltip = tips(("run", " "), ("x", "epoch", "d"), ("y", title, ".2%" if share else ".4~g"))
    return chart(
        title + (", logarithmic" if wide else ""),
        f"{title} by epoch of {', '.join(runs)}.",
        found,
        [
            {"params": [zoom(name)], "mark": {"type": "line", "aria": False}},
            {"mark": {"type": "point", "size": 26}, "encoding": {"tooltip": tooltip}},
        ],
        encoding={"x": x, "y": y, "color": colour},
    )


def curves_figure(result: Row, evidence: Row) -> Figure:
    """Training loss, and the validation score where a run has one; single loss terms stand in the table."""
    curves = {plain(name): rows(curve) for name, curve in mapping(evidence.get("curves")).items()}
    curves = {name: curve for name, curve in curves.items() if curve}
    names = list(dict.fromkeys(label(name) for name in curves))
    losses, scores = points(curves, "loss"), points(curves, "score")
    scored = quality_of({"quality": evidence["scored"]}) if mapping(evidence.get("scored")) else None
    share = scored.share if scored else all(0 <= row["y"] <= 1 for row in scores)
    panels = [panel(losses, "loss", "training loss", False, True, names)] if losses else []
    title = f"validation {scored.label}" if scored else "validation score"
    panels += [panel(scores, "score", title, share, False, names)] if scores else []
    return Figure(
        "curves",
        "Distillation, epoch by epoch",
        "Losses are means over an epoch's steps. Runs with different loss terms do not share a unit: "
        f"compare their {scored.name if scored else 'scores'}, not their losses.",
        panels,
        [curve_table(name, curve) for name, curve in curves.items()],
        () if scores or not curves else ("No run measured a validation score.",),
        missing="No training curves were recorded.",
    )


def curve_table(name: str, curve: Sequence[Row]) -> Table:
    terms = list(dict.fromkeys(plain(term) for entry in curve for term in mapping(entry.get("terms"))))
    logs = list(dict.fromkeys(plain(name) for entry in curve for name in mapping(entry.get("logs"))))
    others = list(dict.fromkeys(plain(role) for entry in curve for role in [*mapping(entry.get("scores"))][1:]))
    body = [
        [
            scalar(entry.get("epoch")),
            general(entry.get("loss")),
            *(general(mapping(entry.get("terms")).get(term)) for term in terms),
            general(entry.get("score")),
            *(general(mapping(entry.get("scores")).get(role)) for role in others),
            *(general(mapping(entry.get("logs")).get(name)) for name in logs),
        ]
        for entry in curve
    ]
    return Table(
        short(name, 80), ["epoch", "loss", *terms, "score", *(f"score of {role}" for role in others), *logs], body
    )
