"""The trials in order with the best so far, and what each had reached when it was looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdsearch.kinds.figure import Figure
from kdsearch.report.charts import Spec, axis, chart, kinds, number_format, staircase, tips, upright, zoom
from kdsearch.report.quality import Quality
from kdsearch.report.trials import (
    COSTS,
    KINDS,
    SHOWN,
    Row,
    best_of,
    curve,
    goals,
    kind,
    objective_label,
    reached,
    trials_table,
)
from kdsearch.report.values import count, items, number, plain, rows, short
from kdsearch.report.words import architecture

VOLUME = "hypervolume"


def about(trial: Row) -> dict[str, str]:
    error = f" ({short(trial['error'], 80)})" if trial.get("error") else ""
    name = short(architecture(trial.get("architecture")), 90) + error
    return {"trial": plain(trial.get("number")), "name": name, "kind": kind(trial)}


def history_panel(trials: Sequence[Row], goal: Quality, nth: int) -> Spec:
    """One objective over the trials in order; the line is the best so far among the complete and feasible."""
    found: list[dict[str, Any]] = []
    for at, trial in enumerate(trials):
        value = reached(trial, goal.metric, goal.up)
        found.append({"x": at if (n := number(trial.get("number"))) is None else n, "y": value, **about(trial)})
    found.sort(key=lambda row: row["x"])
    best: float | None = None
    for row in found:
        better = row["y"] is not None and (best is None or (row["y"] > best if goal.up else row["y"] < best))
        if row["kind"] == "complete" and better:
            best, row["best"] = row["y"], True
    x = axis("x", "trial", [row["x"] for row in found])
    x["axis"] = {"format": "d", "tickMinStep": 1}
    y = upright(axis("y", goal.name, [row["y"] for row in found if row["y"] is not None], share=goal.share))
    signs = kinds(KINDS, [row["kind"] for row in found])
    tooltip = tips(
        ("trial", "trial"), ("name", " "), ("y", goal.name, number_format(goal.name, goal.share)), ("kind", "it")
    )
    foot = {
        "x": x,
        **signs,
        "tooltip": tips(("trial", "trial"), ("name", " "), ("kind", "it")),
        "y": {"value": "height"},
    }
    states = [row["kind"] for row in found]
    said = ", ".join(f"{states.count(name)} {name}" for name, _, _ in KINDS if name in states)
    layers: list[Spec] = [
        {
            "params": [zoom(f"history{nth}")],
            "transform": [{"filter": {"field": "y", "valid": True}}],
            "mark": {"type": "point", "size": 60},
            "encoding": {"x": x, "y": y, **signs, "tooltip": tooltip},
        },
        staircase("best", x, y, "blue"),
    ]
    if any(row["y"] is None for row in found):
        layers.append(
            {
                "transform": [{"filter": {"field": "y", "valid": False}}],
                "mark": {"type": "point", "size": 60},
                "encoding": foot,
            }
        )
    return chart(objective_label(goal), f"{goal.name} of {len(trials)} trials in order: {said}.", found, layers)


def volume_panel(trials: Sequence[Row], wanted: Sequence[Quality]) -> Spec | None:
    """How much of the objectives' box is dominated after each trial; None of one objective, whose best so far says it.

    The box spans all feasible trials and a tenth more: it is this study's own, and no measure between studies.
    """
    found: list[dict[str, Any]] = [
        {"x": at, "y": volume, **about(trial)}
        for at, trial in enumerate(trials)
        if (volume := number(trial.get("hypervolume"))) is not None
    ]
    if len(wanted) < 2 or not found:
        return None
    x = axis("x", "trial", [row["x"] for row in found])
    x["axis"] = {"format": "d", "tickMinStep": 1}
    y = upright(axis("y", VOLUME, [row["y"] for row in found], share=True))
    tooltip = tips(("trial", "trial"), ("y", VOLUME, ".1%"), ("name", " "))
    names = " and ".join(goal.name for goal in wanted)
    return chart(
        VOLUME,
        f"Share of the box of {names} that the trials so far dominate, after each of {len(found)} trials.",
        found,
        [
            {
                "params": [zoom("volume")],
                "mark": {"type": "line", "interpolate": "step-after", "point": {"size": 40}},
                "encoding": {"x": x, "y": y, "tooltip": tooltip},
            }
        ],
    )


def curves_panel(trials: Sequence[Row], goal: Quality) -> Spec | None:
    """One line a trial, from look to look, of the best SHOWN; None where no trial was looked at twice."""
    drawn = [trials[at] for at in best_of(trials, goal)]
    seen = [(trial, curve(trial, goal.metric, goal.up)) for trial in drawn]
    found: list[dict[str, Any]] = [
        {"x": share, "y": value, **about(trial), "at": at}
        for at, (trial, points) in enumerate(seen)
        for share, value in points
    ]
    if not any(len(points) > 1 for _, points in seen):
        return None
    x = axis("x", "share of the epochs", [row["x"] for row in found], share=True)
    y = upright(axis("y", goal.name, [row["y"] for row in found], share=goal.share))
    signs = kinds(KINDS, [row["kind"] for row in found])
    tooltip = tips(
        ("trial", "trial"),
        ("name", " "),
        ("x", "epochs", ".0%"),
        ("y", goal.name, number_format(goal.name, goal.share)),
        ("kind", "it"),
    )
    detail = {"field": "at", "type": "nominal"}
    return chart(
        objective_label(goal),
        f"{goal.name} that {_some(drawn, trials)} trials had reached when they were looked at; stopped ones end early.",
        found,
        [
            {
                "params": [zoom("looks")],
                "mark": {"type": "line", "aria": False, "opacity": 0.6},
                "encoding": {"x": x, "y": y, "color": signs["color"], "detail": detail},
            },
            {"mark": {"type": "point", "size": 36}, "encoding": {"x": x, "y": y, **signs, "tooltip": tooltip}},
        ],
    )


def _some(drawn: Sequence[Row], of: Sequence[Row]) -> str:
    return f"{len(drawn)}" if len(drawn) == len(of) else f"the best {len(drawn)} of {len(of)}"


def history_figure(result: Row, evidence: Row) -> Figure:
    """One panel an objective, then the trials' curves of the first that is no cost."""
    trials = rows(evidence.get("trials"))
    wanted = goals(evidence, trials)
    panels = [history_panel(trials, goal, at) for at, goal in enumerate(wanted)] if trials else []
    panels += [each for each in [volume_panel(trials, wanted)] if each]
    curves = [curves_panel(trials, goal) for goal in wanted if goal.metric not in COSTS][:1]
    scored = number(evidence.get("weightings"))
    begun = f" Trial 0 has the best of {count(scored)} loss weightings, scored without training." if scored else ""
    named = [" and ".join(map(plain, items(what))) for what in items(evidence.get("first"))]
    firsts = [f"{at} has {what}" for at, what in enumerate(named) if what]
    begun += f" What was tried first: trial {', '.join(firsts)}." if len(firsts) > 1 else ""
    if any(curves) and len(trials) > SHOWN:
        begun += f" Curves are of the best {SHOWN}."
    return Figure(
        "history",
        "The trials in order",
        f"{len(trials)} short trainings; one that was stopped early stands at what it had reached then, one that reached nothing "
        f"at the foot.{begun}",
        [*panels, *(each for each in curves if each)],
        [trials_table(trials, wanted)] if trials else (),
        missing="No trials were run, so there is no history.",
    )
