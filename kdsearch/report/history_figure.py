"""The trials in order, with the best so far."""

from __future__ import annotations

from collections.abc import Sequence

from kdsearch.report.figure import Figure, Shape
from kdsearch.report.svg import Frame, axes, drawing, mark, scale_of, staircase
from kdsearch.report.trials import (
    Row,
    goals,
    objective,
    objective_label,
    objective_scale,
    state,
    trial_kind,
    trials_table,
)
from kdsearch.report.values import count, metric, number, plain, rows, short


def history_panel(trials: Sequence[Row], goal: str, up: bool, nth: int) -> str:
    """One objective over the trials in order, with the best so far among the complete and feasible."""
    values = [objective(trial, goal) for trial in trials]
    frame = Frame(lane=16 if None in values else 0)
    numbers = [i if (n := number(trial.get("number"))) is None else n for i, trial in enumerate(trials)]
    x = scale_of(numbers, *frame.x_range)
    y = objective_scale([v for v in values if v is not None], goal, frame)
    best: list[tuple[float, float]] = []
    marks = []
    for at, trial, value in sorted(zip(numbers, trials, values, strict=True), key=lambda each: each[0]):
        kind, shape = trial_kind(trial)
        name = f"trial {plain(trial.get('number'))}, {state(trial)}: {short(trial.get('architecture'), 80)}"
        name += f" ({short(trial['error'], 80)})" if trial.get("error") else ""
        where = x(at), y(value) if value is not None else frame.lane_y
        marks.append(mark(f"{'trial-again' if nth else 'trial'} {kind}", shape, *where, metric(goal, value), name))
        if value is not None and state(trial) == "complete" and trial.get("feasible", True):
            pixel = y(value)  # small is high up
            if not best or (pixel < best[-1][1] if up else pixel > best[-1][1]):
                best.append((x(at), pixel))
    body = axes(frame, x, y, "trial", objective_label(goal, up), lane="none", whole_x=True)
    body += staircase("best", best, x.end) + "".join(marks)
    states = [state(trial) for trial in trials]
    desc = ", ".join(f"{states.count(each)} {each}" for each in ("complete", "pruned", "failed") if each in states)
    return drawing(
        f"history-{nth}", frame, f"{goal} by trial", f"{len(trials)} trials: {desc}.", body, (short(goal, 28),)
    )


def history_figure(result: Row, evidence: Row) -> Figure:
    """One panel an objective. Marks of the first are `mark trial`, of the others `mark trial-again`."""
    trials = rows(evidence.get("trials"))
    wanted = goals(evidence, trials)
    states = [state(trial) for trial in trials]
    legend: list[tuple[str, Shape, str]] = [("trial complete", "dot", "complete"), ("best", "line", "best so far")]
    if any(not t.get("feasible", True) for t in trials):
        legend.append(("trial complete out", "ring", "breaks a constraint"))
    if "pruned" in states:
        legend.append(("trial pruned", "cross", "stopped early"))
    if "failed" in states:
        legend.append(("trial failed", "cross", "failed"))
    return Figure(
        "history",
        "The trials in order",
        f"{len(trials)} short trainings; a trial that was stopped early or failed is marked by what it reached, "
        f"at the foot where it reached nothing.{_begun(evidence)}",
        tuple(history_panel(trials, name, up, at) for at, (name, up) in enumerate(wanted)) if trials else (),
        tuple(legend),
        trials_table(trials, wanted) if trials else "",
        columns=1 if len(wanted) == 1 else 2,
        missing="No trials were run, so there is no history.",
    )


def _begun(evidence: Row) -> str:
    scored = number(evidence.get("weightings"))
    if not scored:
        return ""
    return f" Trial 0 has the best of {count(scored)} loss weightings, scored without training."
