"""Candidates and trials against their cost, with the Pareto front of each."""

from __future__ import annotations

from collections.abc import Sequence

from kdsearch.report.figure import Figure, Shape
from kdsearch.report.stats import front
from kdsearch.report.svg import Frame, axes, drawing, mark, scale_of, speck, staircase
from kdsearch.report.trials import (
    COSTS,
    UNITS,
    Row,
    cost_key,
    cost_of,
    front_members,
    goals,
    objective,
    objective_label,
    objective_scale,
    state,
    trial_kind,
    trials_table,
)
from kdsearch.report.values import count, esc, general, mapping, metric, number, plain, rows, short, table

NAMED = 4000  # up to so many candidates carry their architecture; beyond it only their numbers
SHOWN = 200  # rows of a table twin


def candidates_panel(candidates: Sequence[Row], chosen: object = None) -> str:
    """All scored candidates, the `chosen` architecture with a sign of its own.

    A mark without a score lies in the lane at the foot.
    """
    key = cost_key(candidates, ("params", "macs"))
    scores = [number(c.get("score")) for c in candidates]
    costs = [cost_of(c, key) for c in candidates]
    frame = Frame(lane=16 if None in scores else 0)
    x = scale_of([c for c in costs if c is not None], *frame.x_range, log=True)
    y = scale_of([r for r in scores if r is not None], *frame.y_range)
    names = len(candidates) <= NAMED
    specks, rings, stars = [], [], []
    for candidate, cost, score in zip(candidates, costs, scores, strict=True):
        at = (x(cost) if cost is not None else x.start, y(score) if score is not None else frame.lane_y)
        name = short(candidate.get("architecture") or candidate.get("key"), 80) if names else ""
        numbers = f"{general(cost)}|{general(score)}"
        specks.append(speck("candidate" if candidate.get("feasible", True) else "candidate out", *at, numbers, name))
        if candidate.get("kept"):
            rings.append(mark("kept", "ring", *at, numbers, name or short(candidate.get("key"), 80), r=4.5))
        if chosen and candidate.get("architecture") == chosen:
            stars.append(mark("chosen", "diamond", *at, numbers, f"chosen: {short(chosen, 80)}", r=6))
    able = [
        (cost, score)
        for candidate, cost, score in zip(candidates, costs, scores, strict=True)
        if cost is not None and score is not None and candidate.get("feasible", True)
    ]
    edge = front([cost for cost, _ in able], [score for _, score in able])
    body = (
        axes(frame, x, y, UNITS[key], "score (higher is better)", lane="none")
        + "".join(specks)
        + staircase("front", [(x(able[i][0]), y(able[i][1])) for i in edge], x.end)
        + "".join(rings)
        + "".join(stars)
    )
    desc = f"{len(candidates)} candidates, {len(rings)} kept; {UNITS[key]} on a log axis, score of the proxies upwards."
    return drawing("front-candidates", frame, "Candidates: cost against score", desc, body, (UNITS[key], "score"))


def trials_panel(trials: Sequence[Row], goal: str, up: bool, key: str) -> str:
    """Trained trials: cost against the objective, with the front. `key` is the cost."""
    values = [objective(trial, goal) for trial in trials]
    costs = [cost_of(trial, key) for trial in trials]
    frame = Frame(lane=16 if None in values else 0)
    x = scale_of([c for c in costs if c is not None], *frame.x_range, log=True)
    y = objective_scale([v for v in values if v is not None], goal, frame)
    marks = []
    for trial, cost, value in zip(trials, costs, values, strict=True):
        kind, shape = trial_kind(trial)
        at = (x(cost) if cost is not None else x.start, y(value) if value is not None else frame.lane_y)
        name = f"trial {plain(trial.get('number'))}, {state(trial)}: {short(trial.get('architecture'), 80)}"
        marks.append(mark(f"tried {kind}", shape, *at, f"{general(cost)}|{metric(goal, value)}", name))
    edge = [(x(costs[i] or 0), y(values[i] or 0)) for i in front_members(trials, key, goal, up)]
    body = axes(frame, x, y, UNITS.get(key, key), objective_label(goal, up), lane="none")
    body += staircase("front", edge, x.end) + "".join(marks)
    desc = f"{len(trials)} trials, {len(edge)} of them on the Pareto front; {UNITS.get(key, key)} on a log axis."
    return drawing(
        "front-trials", frame, f"Trials: cost against {goal}", desc, body, (UNITS.get(key, key), short(goal, 28))
    )


def front_figure(result: Row, evidence: Row) -> Figure:
    """Two panels: all candidates, all trials."""
    candidates, trials = rows(evidence.get("candidates")), rows(evidence.get("trials"))
    chosen = mapping(result.get("student")).get("architecture")
    panels: list[str] = []
    twins: list[str] = []
    notes: list[str] = []
    legend: list[tuple[str, Shape, str]] = []
    if candidates:
        panels.append(candidates_panel(candidates, chosen))
        twins.append(candidates_table(candidates))
        legend += [("candidate", "dot", "candidate, scored without training"), ("kept", "ring", "kept for training")]
        if chosen and any(c.get("architecture") == chosen for c in candidates):
            legend.append(("chosen", "diamond", "the student"))
        if not all(c.get("feasible", True) for c in candidates):
            legend.insert(1, ("candidate out", "dot", "breaks a constraint"))
    else:
        notes.append("No candidates were scored: this study's architecture is fixed.")
    if trials:
        wanted = goals(evidence, trials)
        goal, up = next(((name, up) for name, up in wanted if name not in COSTS), wanted[0])
        asked = [name for name, _ in wanted if name in COSTS and name != goal]
        key = cost_key(trials, (*asked, *(key for key in ("params", "macs", "latency_ms") if key not in asked)))
        panels.append(trials_panel(trials, goal, up, key))
        twins.append(trials_table(trials, wanted, front_members(trials, key, goal, up)))
        legend.append(("tried complete", "dot", "trial"))
        if any(trial_kind(trial)[0] == "complete out" for trial in trials):
            legend.append(("tried complete out", "ring", "trial that breaks a constraint"))
        if any(state(trial) != "complete" for trial in trials):
            legend.append(("tried pruned", "cross", "stopped early or failed"))
    else:
        notes.append("No trials were run: nothing was trained before the choice.")
    if panels:
        legend.append(("front", "line", "Pareto front of the feasible"))
    return Figure(
        "front",
        "What the search saw",
        "Every candidate that was scored without training, and every trial that was trained briefly, against its cost. "
        "The line joins those that no other feasible one beats in both.",
        tuple(panels),
        tuple(legend),
        "".join(twins),
        missing="Neither candidates nor trials: this study searched nothing.",
        notes=tuple(notes) if panels else (),
    )


def candidates_table(candidates: Sequence[Row]) -> str:
    """Kept ones first, then by score; at most SHOWN."""

    def order(c: Row) -> tuple[bool, float]:
        score = number(c.get("score"))
        return not c.get("kept"), float("inf") if score is None else -score

    proxies = list(dict.fromkeys(plain(name) for c in candidates for name in mapping(c.get("scores"))))
    head = ["architecture", "parameters", "MACs", "score", *proxies, "kept", "feasible"]
    body = [
        [
            esc(c.get("architecture") or c.get("key")),
            count(c.get("params")),
            count(c.get("macs")),
            general(c.get("score")),
            *(general(mapping(c.get("scores")).get(proxy)) for proxy in proxies),
            "yes" if c.get("kept") else "",
            "yes" if c.get("feasible", True) else "no",
        ]
        for c in sorted(candidates, key=order)[:SHOWN]
    ]
    more = f"; the best {SHOWN} of them, all are in the study's folder" if len(candidates) > SHOWN else ""
    return table(head, body, f"{len(candidates)} candidates{more}", range(1, 4 + len(proxies)))
