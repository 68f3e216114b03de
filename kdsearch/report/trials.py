"""How trials and candidates are read: state, cost, objectives, who is on the front, and their table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from kdsearch.kinds.figure import Table
from kdsearch.report.quality import Quality, quality_of
from kdsearch.report.stats import front
from kdsearch.report.values import count, flat, general, items, mapping, milliseconds, number, plain, scalar, short
from kdsearch.report.words import architecture

Row = Mapping[str, Any]
STATES = ("complete", "pruned", "failed", "running", "paused")
COSTS = ("latency_ms", "macs", "params", "bytes", "onnx_bytes", "peak_bytes")
IN_ROW = {"onnx_bytes": "bytes"}  # a cost -> what a trial's row calls it, where that is another name
UNITS = {
    "latency_ms": "latency (ms)",
    "macs": "MACs",
    "params": "parameters",
    "bytes": "file size (bytes)",
    "onnx_bytes": "file size (bytes)",
    "peak_bytes": "memory of one call (bytes)",
}
SHOWN = 200  # rows of a table, lines of a chart: a page of thousands opens slowly, and nobody reads them
OUT, STOPPED = "breaks a constraint", "stopped early"
KINDS = (
    ("complete", "blue", "circle"),
    (OUT, "red", "triangle-down"),
    (STOPPED, "orange", "cross"),
    ("failed", "red", "cross"),
    ("running", "grey", "circle"),
)


def state(trial: Row) -> str:
    return plain(trial.get("state")) if trial.get("state") in STATES else "failed"


def kind(trial: Row) -> str:
    """What became of a trial, in the words of the legend."""
    found = state(trial)
    if found == "complete":
        return "complete" if trial.get("feasible", True) else OUT
    return {"pruned": STOPPED, "failed": "failed"}.get(found, "running")


def cost_of(row: Row, key: str) -> float | None:
    """A cost; what is not positive was not measured."""
    found = number(row.get(IN_ROW.get(key, key)))
    if found is None:
        found = number(mapping(row.get("objectives")).get(key))
    return found if found is not None and found > 0 else None


def cost_key(some: Sequence[Row], keys: Sequence[str]) -> str:
    """The first cost that tells at least two apart, else the first that is known at all."""
    known = [(key, {cost_of(row, key) for row in some} - {None}) for key in keys]
    return next((key for key, found in known if len(found) > 1), next((key for key, found in known if found), keys[0]))


def declared(evidence: Row) -> dict[str, bool]:
    """Objective -> whether more is better, in the study's order: of pairs (name, direction), or of a mapping."""
    given = evidence.get("objectives")
    pairs = [pair for each in items(given) if len(pair := items(each)) == 2] or mapping(given).items()
    return {plain(name): way != "min" for name, way in pairs}


def goals(evidence: Row, trials: Sequence[Row]) -> list[Quality]:
    """The objectives, without values: the declared ones, else whatever the trials report."""
    ways = declared(evidence)
    seen = {plain(name): name not in COSTS for trial in trials for name in mapping(trial.get("objectives"))}
    measures = mapping(evidence.get("measures"))
    return [goal(name, up, mapping(measures.get(name))) for name, up in (ways or seen or {"objective": True}).items()]


def goal(name: str, up: bool, measure: Row) -> Quality:
    """An objective of a study, as its metric says its values are read; a cost by its own words."""
    if name in COSTS:
        return Quality(name, None, up, title=UNITS[name])
    raw = {**measure, "metric": name, "direction": "max" if up else "min"}
    return quality_of({"quality": raw})


def objective(trial: Row, name: str) -> float | None:
    return number(mapping(trial.get("objectives")).get(name))


def curve(trial: Row, name: str, up: bool) -> list[tuple[float, float]]:
    """(share of the epochs, that objective) of every look at a trial; its curve holds losses by name."""
    found = []
    for point in items(trial.get("curve")):
        ends = items(point)
        if len(ends) != 2 or (share := number(ends[0])) is None:
            continue
        if (loss := number(mapping(ends[1]).get(name))) is not None:
            found.append((share, -loss if up else loss))
    return found


def reached(trial: Row, name: str, up: bool) -> float | None:
    """The objective of a trial that ended, else what it had when it was stopped."""
    found = objective(trial, name)
    if found is None and name in COSTS:  # known before a step is taken
        found = cost_of(trial, name)
    if found is None and (seen := curve(trial, name, up)):
        return seen[-1][1]
    return found


def front_members(trials: Sequence[Row], key: str, goal: Quality) -> list[int]:
    """Numbers in the list of the complete, feasible trials that no other beats."""
    able = [
        (i, cost, value if goal.up else -value)
        for i, trial in enumerate(trials)
        if kind(trial) == "complete"
        if (cost := cost_of(trial, key)) is not None
        if (value := objective(trial, goal.metric)) is not None
    ]
    return [able[j][0] for j in front([cost for _, cost, _ in able], [value for _, _, value in able])]


def objective_label(goal: Quality) -> str:
    unit = f" ({goal.unit})" if goal.unit else ""
    return f"{short(goal.name, 28)}{unit}, {'higher' if goal.up else 'lower'} is better"


def written(goal: Quality, value: float | None) -> str:
    """A value of an objective in the table's cells; a cost in full."""
    return general(value) if goal.metric in COSTS else goal.write(value)


def best_of(trials: Sequence[Row], goal: Quality, always: Sequence[int] = ()) -> list[int]:
    """Places in the list, in its order, of at most SHOWN trials: those of `always`, then whatever reached most."""

    def order(at: int) -> tuple[bool, float]:
        value = reached(trials[at], goal.metric, goal.up)
        return at not in always, math.inf if value is None else -value if goal.up else value

    return sorted(sorted(range(len(trials)), key=order)[:SHOWN])


def trials_table(trials: Sequence[Row], wanted: Sequence[Quality], on_front: Sequence[int] = ()) -> Table:
    """At most SHOWN: those of the front, and the best by the first objective that is no cost."""
    first = next((each for each in wanted if each.metric not in COSTS), wanted[0])
    names = [goal.name for goal in wanted]
    head = ["trial", "state", *names, "front", "parameters", "MACs", "latency (ms)", "architecture", "values"]
    body = [
        [
            plain(trial.get("number")),
            kind(trial) + (f": {plain(trial['error'])}" if trial.get("error") else ""),
            *(written(goal, reached(trial, goal.metric, goal.up)) for goal in wanted),
            "yes" if at in on_front else "",
            count(trial.get("params")),
            count(trial.get("macs")),
            milliseconds(trial.get("latency_ms")),
            architecture(trial.get("architecture")),
            "; ".join(f"{path} = {scalar(value)}" for path, value in flat(trial.get("values"))) or None,
        ]
        for at, trial in ((at, trials[at]) for at in best_of(trials, first, on_front))
    ]
    said = f"{len(trials)} trials"
    if len(body) < len(trials):
        best = f"the best by {short(first.name, 40)}{' and the front' if on_front else ''}"
        said = f"{len(body)} of {said}: {best}; all are in the study's folder"
    return Table(said, head, body)
