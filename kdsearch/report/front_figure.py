"""Candidates and trials against their cost, with the Pareto front of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdsearch.kinds.figure import Figure, Table
from kdsearch.report.charts import Spec, axis, chart, kinds, number_format, staircase, tips, upright, zoom
from kdsearch.report.quality import Quality
from kdsearch.report.stats import front
from kdsearch.report.trials import (
    COSTS,
    KINDS,
    SHOWN,
    UNITS,
    Row,
    cost_key,
    cost_of,
    front_members,
    goals,
    kind,
    objective_label,
    reached,
    trials_table,
)
from kdsearch.report.values import count, general, mapping, number, plain, rows, short
from kdsearch.report.words import architecture, part

DRAWN = 4000  # candidates that are drawn, so that the page stays light; kept ones and the front always are
SCORED, KEPT, CHOSEN, OUT = "scored", "kept for training", "the student", "breaks a constraint"
CANDIDATES = (
    (SCORED, "grey", "circle"),
    (KEPT, "blue", "circle"),
    (CHOSEN, "orange", "diamond"),
    (OUT, "red", "triangle-down"),
)


def candidate_rows(candidates: Sequence[Row], key: str, chosen: object) -> list[dict[str, Any]]:
    """What is drawn of each candidate with a cost and a score. chosen: the student's architecture."""
    found: list[dict[str, Any]] = []
    for each in candidates:
        cost, score = cost_of(each, key), number(each.get("score"))
        if cost is None or score is None:
            continue
        is_chosen = bool(chosen) and each.get("architecture") == chosen
        out = not each.get("feasible", True)
        sign = CHOSEN if is_chosen else KEPT if each.get("kept") else OUT if out else SCORED
        name = short(architecture(each.get("architecture") or each.get("key")), 90)
        found.append({"x": cost, "y": score, "kind": sign, "name": name})
    able = [at for at, row in enumerate(found) if row["kind"] != OUT]
    for at in front([found[i]["x"] for i in able], [found[i]["y"] for i in able]):
        found[able[at]]["front"] = True
    return found


def thinned(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most DRAWN, every nth of the merely scored by cost."""
    marked = [row for row in found if row["kind"] in (KEPT, CHOSEN) or row.get("front")]
    others = sorted(
        (row for row in found if not (row["kind"] in (KEPT, CHOSEN) or row.get("front"))), key=lambda r: r["x"]
    )
    room = max(DRAWN - len(marked), 1)
    if len(others) > room:
        others = [others[at * len(others) // room] for at in range(room)]
    return [*others, *marked]


def candidates_panel(
    found: Sequence[dict[str, Any]], key: str, scale: Sequence[dict[str, Any]], whose: str, at: int
) -> Spec:
    """The cloud is silent for screen readers; kept candidates, the student and the front are not. `scale`: all, for the axes."""
    x = axis("x", UNITS[key], [row["x"] for row in scale], log=True)
    y = upright(axis("y", "score", [row["y"] for row in scale]))
    signs = kinds(CANDIDATES, [row["kind"] for row in found])
    tooltip = tips(("name", " "), ("x", UNITS[key], ",.5~g"), ("y", "score", ".4~g"), ("kind", "it"))
    quiet = {"or": [{"field": "kind", "equal": SCORED}, {"field": "kind", "equal": OUT}]}
    kept = sum(row["kind"] != SCORED and row["kind"] != OUT for row in found)
    return chart(
        f"score{whose}, higher is better",
        f"{len(scale)} candidates{whose}, {kept} kept: {UNITS[key]} against the score of the proxies, higher is better.",
        found,
        [
            {
                "params": [zoom(f"candidates{at}")],
                "transform": [{"filter": quiet}],
                "mark": {"type": "point", "size": 20, "opacity": 0.5, "aria": False},
                "encoding": {"x": x, "y": y, **signs, "tooltip": tooltip},
            },
            staircase("front", x, y),
            {
                "transform": [{"filter": {"not": quiet}}],
                "mark": {"type": "point", "size": 70, "stroke": "#fffffe", "strokeWidth": 0.8},
                "encoding": {"x": x, "y": y, **signs, "tooltip": tooltip},
            },
        ],
    )


def trials_panel(trials: Sequence[Row], goal: Quality, key: str) -> Spec:
    """Trained trials: cost against the objective, with the front; one that was stopped at what it had reached."""
    members = set(front_members(trials, key, goal))
    found: list[dict[str, Any]] = [
        {
            "x": cost,
            "y": value,
            "kind": kind(trial),
            "name": short(architecture(trial.get("architecture")), 90),
            "trial": plain(trial.get("number")),
            "front": at in members,
        }
        for at, trial in enumerate(trials)
        if (cost := cost_of(trial, key)) is not None and (value := reached(trial, goal.metric, goal.up)) is not None
    ]
    unit = UNITS.get(key, key)
    x = axis("x", unit, [row["x"] for row in found], log=True)
    y = upright(axis("y", goal.name, [row["y"] for row in found], share=goal.share))
    signs = kinds(KINDS, [row["kind"] for row in found])
    tooltip = tips(
        ("trial", "trial"),
        ("name", " "),
        ("x", unit, ",.5~g"),
        ("y", goal.name, number_format(goal.name, goal.share)),
        ("kind", "it"),
    )
    marks = {"mark": {"type": "point", "size": 60}, "encoding": {"x": x, "y": y, **signs, "tooltip": tooltip}}
    return chart(
        objective_label(goal),
        f"{len(trials)} trials, {len(members)} of them on the Pareto front: {unit} against {goal.name}.",
        found,
        [{"params": [zoom("trials")], **marks}, staircase("front", x, y)],
    )


def by_role(candidates: Sequence[Row]) -> dict[str | None, list[Row]]:
    """Those of each role, which is None where a study has one student."""
    found: dict[str | None, list[Row]] = {}
    for each in candidates:
        found.setdefault(plain(each["role"]) if each.get("role") else None, []).append(each)
    return found


def left_out(n: int, found: int, drawn: int, whose: str) -> list[str]:
    """Sentences on how many of n candidates have no place in the panel, and on how many of those that have one are not drawn."""
    notes = []
    if drawn < found:
        notes.append(f"{count(drawn)} of {count(found)} candidates{whose} are drawn, all kept ones among them.")
    if found < n:
        notes.append(f"{count(n - found)} candidates{whose} have no score or no cost.")
    return notes


def front_figure(result: Row, evidence: Row) -> Figure:
    """A panel of all candidates, of several students one a role, and one of all trials."""
    candidates, trials = rows(evidence.get("candidates")), rows(evidence.get("trials"))
    panels: list[Spec] = []
    tables: list[Table] = []
    notes: list[str] = []
    if candidates:
        chosen = mapping(result.get("student")).get("architecture")
        key = cost_key(candidates, ("params", "macs"))
        for at, (role, own) in enumerate(by_role(candidates).items()):
            found = candidate_rows(own, key, part(chosen, role))
            drawn, whose = thinned(found), f" of {short(role, 24)}" if role else ""
            panels.append(candidates_panel(drawn, key, found, whose, at))
            notes += left_out(len(own), len(found), len(drawn), whose)
        tables.append(candidates_table(candidates))
    else:
        notes.append("No candidates were scored: this study's architecture is fixed.")
    if trials:
        wanted = goals(evidence, trials)
        goal = next((each for each in wanted if each.metric not in COSTS), wanted[0])
        asked = [each.metric for each in wanted if each.metric in COSTS and each != goal]
        key = cost_key(trials, (*asked, *(key for key in ("params", "macs", "latency_ms") if key not in asked)))
        panels.append(trials_panel(trials, goal, key))
        tables.append(trials_table(trials, wanted, front_members(trials, key, goal)))
        without = sum(reached(trial, goal.metric, goal.up) is None for trial in trials)
        if without:
            notes.append(f"{without} of {len(trials)} trials reached no value of {short(goal.name, 40)}.")
    else:
        notes.append("No trials were run: nothing was trained before the choice.")
    return Figure(
        "front",
        "What the search saw",
        "Every candidate that was scored without training, and every trial that was trained briefly, against its cost. "
        "The line joins those that no other feasible one beats in both.",
        panels,
        tables,
        notes if panels else (),
        missing="Neither candidates nor trials: this study searched nothing.",
    )


def candidates_table(candidates: Sequence[Row]) -> Table:
    """Kept ones first, then by score; at most SHOWN. Of several students with their role."""

    def order(c: Row) -> tuple[bool, float]:
        score = number(c.get("score"))
        return not c.get("kept"), float("inf") if score is None else -score

    proxies = list(dict.fromkeys(plain(name) for c in candidates for name in mapping(c.get("scores"))))
    has_roles = any(each.get("role") for each in candidates)
    head = [
        *(["role"] if has_roles else []),
        "architecture",
        "parameters",
        "MACs",
        "score",
        *(f"{name} score" for name in proxies),
        "kept",
        "feasible",
    ]
    body = [
        [
            *([plain(c.get("role"))] if has_roles else []),
            architecture(c.get("architecture") or c.get("key")),
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
    return Table(f"{len(candidates)} candidates{more}", head, body)
