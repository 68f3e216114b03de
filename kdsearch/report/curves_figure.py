"""Loss and validation score by epoch, one line a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdsearch.kinds.figure import Figure, Table
from kdsearch.report.charts import PALETTE, SERIES, Spec, axis, chart, label, tips, upright, zoom
from kdsearch.report.quality import quality_of
from kdsearch.report.values import general, mapping, number, plain, rows, scalar, short

Row = Mapping[str, Any]
OWN = {
    "student": "blue",
    "without a teacher": "orange",
    "with every label": "green",
    "no search": "purple",
    "teacher": "brown",
}  # the same on every page
BESIDE = "compare-"  # runs that others are judged by: grey
DASHES = ([6, 3], [2, 2], [10, 3, 2, 3], [1, 4], [14, 4], [6, 2, 2, 2, 2, 2])  # tell grey lines apart


def place(run: str) -> tuple[bool, int, str]:
    """Order in the legend: runs with a colour of their own, others, those beside."""
    own = list(OWN)
    return (run.startswith(BESIDE), own.index(run) if run in own else len(own), run)


def styles(runs: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Colour and dashes of each run: its own, else one that no other run has; then, and of those beside, grey and dashed."""
    free = [name for name in SERIES if name != "grey" and name not in {OWN.get(run) for run in runs}]
    found, n_grey = [], 0
    for run in runs:
        name = OWN.get(run) or (free.pop(0) if free and not run.startswith(BESIDE) else "grey")
        found.append((PALETTE[name], DASHES[n_grey % len(DASHES)] if name == "grey" else [1, 0]))
        n_grey += name == "grey"
    return found


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
    each = {"field": "run", "type": "nominal", "title": None}
    colours, dashes = zip(*styles(runs), strict=True)
    line: Spec = {"legend": {"symbolType": "stroke", "symbolSize": 200, "symbolStrokeWidth": 2}}
    colour = {**each, "scale": {"domain": list(runs), "range": list(colours)}, **line}
    dash = {**each, "scale": {"domain": list(runs), "range": list(dashes)}, **line}
    tooltip = tips(("run", " "), ("x", "epoch", "d"), ("y", title, ".2%" if share else ".4~g"))
    return chart(
        title + (", logarithmic" if wide else ""),
        f"{title} by epoch of {', '.join(runs)}.",
        found,
        [
            {
                "params": [zoom(name)],
                "mark": {"type": "line", "aria": False},
                "encoding": {"stroke": colour, "strokeDash": dash},
            },
            {
                "mark": {"type": "point", "size": 26},
                "encoding": {"fill": {**colour, "legend": None}, "tooltip": tooltip},
            },
        ],
        encoding={"x": x, "y": y},
    )


def curves_figure(result: Row, evidence: Row) -> Figure:
    """Training loss, and the validation score where a run has one; single loss terms stand in the table."""
    curves = {plain(name): rows(curve) for name, curve in mapping(evidence.get("curves")).items()}
    curves = {name: curve for name, curve in curves.items() if curve}
    names = sorted(dict.fromkeys(label(name) for name in curves), key=place)
    losses, scores = points(curves, "loss"), points(curves, "score")
    scored = quality_of({"quality": evidence["scored"]}) if mapping(evidence.get("scored")) else None
    share = scored.share if scored else all(0 <= row["y"] <= 1 for row in scores)
    panels = [panel(losses, "loss", "training loss", False, True, names)] if losses else []
    title = f"validation {scored.label}" if scored else "validation score"
    panels += [panel(scores, "score", title, share, False, names)] if scores else []
    judged_on = {
        plain(name): plain(words) for name, words in mapping(evidence.get("judged_on")).items() if name in curves
    }
    notes = judged(judged_on) if scores else ["No run measured a validation score."] if curves else []
    return Figure(
        "curves",
        "Distillation, epoch by epoch",
        "Losses are means over an epoch's steps. Runs with different loss terms do not share a unit: "
        f"compare their {scored.name if scored else 'scores'}, not their losses.",
        panels,
        [curve_table(name, curve) for name, curve in curves.items()],
        notes,
        missing="No training curves were recorded.",
    )


def judged(on: Mapping[str, str]) -> list[str]:
    """What the runs' validation figures are of, where that is not the same for all; `on`: run -> what its own are of."""
    if len(set(on.values())) < 2:
        return []
    runs = {words: [label(name) for name in sorted(on, key=place) if on[name] == words] for words in on.values()}
    each = "; ".join(f"{words} ({', '.join(names)})" for words, names in runs.items())
    return [f"Validation figures are not all of the same samples and labels: {each}. Compare those of one kind."]


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
