"""Loss and validation score by epoch, one line a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdsearch.report.figure import Figure, Shape
from kdsearch.report.svg import Frame, axes, drawing, line, mark, scale_of
from kdsearch.report.values import esc, general, mapping, number, percent, plain, rows, scalar, short, table

Row = Mapping[str, Any]
COLOURS = 6  # series colours; a seventh run takes the first again, dashed
Point = tuple[float, float | None]


def series(at: int) -> str:
    """The classes of the nth run."""
    return f"s{at % COLOURS}" + (" again" if at >= COLOURS else "")


def points(curve: Sequence[Row], key: str) -> list[Point]:
    """(epoch, value) of every entry; an entry without an epoch is counted."""
    return [
        (at if (epoch := number(entry.get("epoch"))) is None else epoch, number(entry.get(key)))
        for at, entry in enumerate(curve)
    ]


def curve_panel(runs: Mapping[str, list[Point]], uid: str, label: str, kind: str, colour: Mapping[str, int]) -> str:
    """One line a run and one `mark` of class `kind` a point; a point without a value lies in the lane."""
    known = [value for run in runs.values() for _, value in run if value is not None]
    frame = Frame(lane=16 if any(value is None for run in runs.values() for _, value in run) else 0)
    share = kind == "score" and bool(known) and min(known) >= 0 and max(known) <= 1
    wide = kind == "epoch" and bool(known) and min(known) > 0 and max(known) / min(known) > 30
    x = scale_of([epoch for run in runs.values() for epoch, _ in run], *frame.x_range)
    y = scale_of(known, *frame.y_range, percent=share, log=wide)
    lines, marks = [], []
    for name, run in runs.items():
        style = series(colour[name])
        lines.append(line(style, [(x(epoch), y(value)) for epoch, value in run if value is not None]))
        r = 3 if len(run) <= 40 else 1.5
        for epoch, value in run:
            at = (x(epoch), y(value) if value is not None else frame.lane_y)
            numbers = f"{general(epoch)}|{percent(value) if share else general(value)}"
            marks.append(mark(f"{kind} {style}", "dot", *at, numbers, short(name, 40), r=r))
    unit = " (%)" if share else ", log scale" if y.log else ""
    body = axes(frame, x, y, "epoch", label + unit, lane="none", whole_x=True) + "".join(lines) + "".join(marks)
    desc = f"{len(runs)} runs: {', '.join(short(name, 40) for name in runs)}."
    return drawing(uid, frame, f"{label} by epoch", desc, body, ("epoch", label))


def curves_figure(result: Row, evidence: Row) -> Figure:
    """Training loss, and the validation score where a run has one; single loss terms stand in the table."""
    curves = {plain(name): rows(curve) for name, curve in mapping(evidence.get("curves")).items()}
    curves = {name: curve for name, curve in curves.items() if curve}
    colour = {name: at for at, name in enumerate(curves)}
    panels, notes = [], []
    if curves:
        runs = {name: points(curve, "loss") for name, curve in curves.items()}
        panels.append(curve_panel(runs, "curves-loss", "training loss", "epoch", colour))
        scored = {name: points(curve, "score") for name, curve in curves.items()}
        scored = {name: run for name, run in scored.items() if any(value is not None for _, value in run)}
        if scored:
            panels.append(curve_panel(scored, "curves-score", "validation score", "score", colour))
        else:
            notes.append("No run measured a validation score.")
    legend: list[tuple[str, Shape, str]] = [(series(at), "line", short(name, 40)) for name, at in colour.items()]
    return Figure(
        "curves",
        "Distillation, epoch by epoch",
        "Losses are means over an epoch's steps. Runs with different loss terms do not share a unit: "
        "compare their scores, not their losses.",
        tuple(panels),
        tuple(legend),
        "".join(curve_table(name, curve) for name, curve in curves.items()),
        missing="No training curves were recorded.",
        notes=tuple(notes),
    )


def curve_table(name: str, curve: Sequence[Row]) -> str:
    terms = list(dict.fromkeys(plain(term) for entry in curve for term in mapping(entry.get("terms"))))
    body = [
        [
            esc(scalar(entry.get("epoch"))),
            general(entry.get("loss")),
            *(general(mapping(entry.get("terms")).get(term)) for term in terms),
            general(entry.get("score")),
        ]
        for entry in curve
    ]
    return table(["epoch", "loss", *terms, "score"], body, name, range(3 + len(terms)))
