"""How trials and candidates are read: state, cost, objectives, who is on the front, and their table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from kdsearch.report.stats import front
from kdsearch.report.svg import Frame, Scale, scale_of
from kdsearch.report.values import (
    MISSING,
    count,
    esc,
    flat,
    is_share,
    mapping,
    metric,
    milliseconds,
    number,
    plain,
    scalar,
    short,
    table,
)

Row = Mapping[str, Any]
COSTS = ("latency_ms", "macs", "params", "bytes", "onnx_bytes")
UNITS = {
    "latency_ms": "latency (ms)",
    "macs": "MACs",
    "params": "parameters",
    "bytes": "file size (bytes)",
    "onnx_bytes": "file size (bytes)",
}


def state(trial: Row) -> str:
    return plain(trial.get("state")) if trial.get("state") in ("complete", "pruned", "failed") else "failed"


def cost_of(row: Row, key: str) -> float | None:
    """A cost; what is not positive was not measured."""
    found = number(row.get(key))
    if found is None:
        found = number(mapping(row.get("objectives")).get(key))
    return found if found is not None and found > 0 else None


def cost_key(some: Sequence[Row], keys: Sequence[str]) -> str:
    """The first cost that tells at least two apart, else the first that is known at all."""
    known = [(key, {cost_of(row, key) for row in some} - {None}) for key in keys]
    return next((key for key, found in known if len(found) > 1), next((key for key, found in known if found), keys[0]))


def goals(evidence: Row, trials: Sequence[Row]) -> list[tuple[str, bool]]:
    """(objective, higher is better): the declared ones, else whatever the trials report."""
    declared = [(plain(name), way != "min") for name, way in mapping(evidence.get("objectives")).items()]
    seen = {plain(name): True for trial in trials for name in mapping(trial.get("objectives"))}
    return declared or [(name, name not in COSTS) for name in seen] or [("objective", True)]


def trial_kind(trial: Row) -> tuple[str, Literal["dot", "ring", "cross"]]:
    """Class and shape by what became of a trial."""
    if state(trial) != "complete":
        return state(trial), "cross"
    return ("complete", "dot") if trial.get("feasible", True) else ("complete out", "ring")


def front_members(trials: Sequence[Row], key: str, goal: str, up: bool) -> list[int]:
    """Numbers in the list of the complete, feasible trials that no other beats."""
    able = [
        (i, cost, value if up else -value)
        for i, trial in enumerate(trials)
        if state(trial) == "complete" and trial.get("feasible", True)
        if (cost := cost_of(trial, key)) is not None
        if (value := objective(trial, goal)) is not None
    ]
    return [able[j][0] for j in front([cost for _, cost, _ in able], [value for _, _, value in able])]


def objective_scale(values: Sequence[float], name: str, frame: Frame) -> Scale:
    return scale_of(values, *frame.y_range, percent=is_share(name))


def objective_label(name: str, up: bool) -> str:
    unit = " (%)" if is_share(name) else ""
    return f"{short(name, 28)}{unit}, {'higher' if up else 'lower'} is better"


def objective(trial: Row, name: str) -> float | None:
    return number(mapping(trial.get("objectives")).get(name))


def trials_table(trials: Sequence[Row], wanted: Sequence[tuple[str, bool]], on_front: Sequence[int] = ()) -> str:
    names = [name for name, _ in wanted]
    head = ["trial", "state", *names, "front", "parameters", "MACs", "latency (ms)", "architecture", "values"]
    body = [
        [
            esc(trial.get("number")),
            state(trial) + (f": {esc(trial['error'])}" if trial.get("error") else ""),
            *(metric(name, mapping(trial.get("objectives")).get(name)) for name in names),
            "yes" if at in on_front else "",
            count(trial.get("params")),
            count(trial.get("macs")),
            milliseconds(trial.get("latency_ms")),
            esc(trial.get("architecture")),
            esc("; ".join(f"{path} = {scalar(value)}" for path, value in flat(trial.get("values"))) or MISSING),
        ]
        for at, trial in enumerate(trials)
    ]
    return table(
        head, body, f"{len(trials)} trials", [*range(2, 2 + len(names)), *range(3 + len(names), 6 + len(names))]
    )
