"""What a trial stands for: its architectures, what they cost, its objectives, its row in the report; and which are the best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from kdsearch.errors import RefusedError, TrialError
from kdsearch.kinds import Controller, Dim, Range, Trial
from kdsearch.search.pareto import fronts, hypervolumes
from kdsearch.stages.costs import violations
from kdsearch.store.artifacts import Artifact
from kdsearch.store.hashing import canonical
from kdsearch.training.materials import Materials
from kdsearch.training.request import Outcome


def offered(
    searched: Artifact, controller: Controller[Any], ships: Sequence[str], first: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """Role -> key -> the row of each architecture that the controller may choose, the best score first.

    All that the search kept, where the controller looks at their scores; else its short list. Last those of `refine.first` that
    are none of these, of the roles that ship.
    """
    found = {}
    for role, facts in searched.facts["roles"].items():
        rows = short_of(facts["kept"], controller.reads_facts)
        also = [name for name in ("families", "largest", "cheapest") if name in first and role in ships]
        rows += [row for name in also for row in facts[name].values()]
        found[role] = {each["key"]: each for each in rows}
    return found


def short_of(kept: Sequence[dict[str, Any]], reads_facts: bool) -> list[dict[str, Any]]:
    """Of the rows that the search kept those of its short list; all for a controller that looks at their scores."""
    return [each for each in kept if reads_facts or each["short"]]


def architecture_dims(materials: Materials, kept: Mapping[str, Mapping[str, Any]]) -> list[Dim]:
    """One dimension a role: which of the kept architectures, with what the search knows of each."""
    has_costs = len(materials.objectives) > 1 and bool(materials.cost_objectives)
    return [
        Dim(
            f"{materials.study.path_of_student(role)}.architecture",
            Range(
                choices=tuple(by_key),
                facts=tuple(facts_of({"": each["score"], **each["scores"]}) for each in by_key.values()),
                costs=tuple(_losses_known(materials, role, each) for each in by_key.values()) if has_costs else (),
            ),
        )
        for role, by_key in kept.items()
    ]


def _losses_known(materials: Materials, role: str, row: Mapping[str, Any]) -> tuple[float, ...]:
    """What an architecture of that role adds to each objective as a loss, NaN where a training tells: see `losses_of`."""
    ships = role in materials.ships
    costs = {name: float(row["costs"][name]) if ships else 0.0 for name in materials.cost_objectives}
    return tuple(costs.get(name, math.nan) for name in materials.objectives)


def facts_of(scores: Mapping[str, float | None]) -> tuple[float, ...]:
    """What a controller may know of an architecture: its scores, the combined one first; none = the worst."""
    return tuple(-math.inf if each is None else each for each in scores.values())


def specs_of(trial: Trial, kept: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """role -> architecture spec."""
    return {role: _row(trial, role, by_key)["spec"] for role, by_key in kept.items()}


def architecture(materials: Materials, specs: Mapping[str, Any]) -> str:
    """A student's architecture as JSON text: what the network of its one role reads of its spec, or that of each."""
    spaces = materials.spaces
    read = {role: spaces[role].read(spaces[role].parse(dict(spec))) for role, spec in specs.items()}
    return canonical(next(iter(read.values())) if len(read) == 1 else read)


def keys_of(trial: Trial) -> list[str]:
    """Of its architectures, a role each."""
    return [str(value) for path, value in trial.values.items() if path.endswith(".architecture")]


def _row(trial: Trial, role: str, by_key: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """What the search knows of its architecture of that role."""
    paths = (path for path in trial.values if path.endswith(".architecture") and _role(path) == role)
    return by_key[str(trial.values[next(paths)])]


def _role(path: str) -> str:
    return path.removeprefix("students.").removesuffix(".architecture")


def recipe_values(materials: Materials, trial: Trial) -> dict[str, Any]:
    known = {dim.path for dim in materials.recipe.dims}
    return {path: value for path, value in trial.values.items() if path in known}


def family_of(materials: Materials, specs: Mapping[str, Any]) -> str:
    """Of the networks that ship; "" where their spaces have no families."""
    spaces = materials.spaces
    return " ".join(spaces[role].family(spaces[role].parse(dict(specs[role]))) for role in materials.ships).strip()


def score_of(materials: Materials, trial: Trial, kept: Mapping[str, Mapping[str, Any]]) -> float | None:
    """The training-free score of the trial's shipped architectures, summed over their roles; None where one has none."""
    scores = [_row(trial, role, kept[role])["score"] for role in materials.ships]
    return None if None in scores else float(sum(scores))


def costs_of(materials: Materials, trial: Trial, kept: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Costs of the trial's shipped architectures, summed over their roles."""
    total: dict[str, float] = {}
    for role in materials.ships:
        for name, value in _row(trial, role, kept[role])["costs"].items():
            total[name] = total.get(name, 0.0) + value
    return total


def over_of(materials: Materials, trial: Trial, kept: Mapping[str, Mapping[str, Any]]) -> tuple[float, ...]:
    """How far its architectures together are above each limit: <= 0 where it holds."""
    return tuple(violations(materials, costs_of(materials, trial, kept)).values())


def is_feasible(trial: Trial) -> bool:
    """Whether one that is complete keeps every limit."""
    return all(each <= 0 for each in trial.violations)


def losses_of(
    materials: Materials, outcome: Outcome, trial: Trial, kept: Mapping[str, Mapping[str, Any]]
) -> tuple[float, ...] | None:
    """The objectives, all to be minimised; None where the procedure gives no score before its end."""
    if outcome.score is None:
        return None
    values = {**costs_of(materials, trial, kept), **outcome.measured(materials.objective)}
    return tuple(
        -values[name] if direction == "max" else values[name] for name, direction in materials.objectives.items()
    )


def row_of(materials: Materials, trial: Trial, kept: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A trial as the report shows it: objectives in their own direction, costs, recipe values."""
    objectives = {
        name: -loss if direction == "max" else loss
        for (name, direction), loss in zip(materials.objectives.items(), trial.losses, strict=False)
    }
    costs = costs_of(materials, trial, kept)
    over = trial.violations or over_of(materials, trial, kept)  # one that did not end well was told none
    return {
        "number": trial.number,
        "architecture": architecture(materials, specs_of(trial, kept)),
        "keys": keys_of(trial),
        "values": recipe_values(materials, trial),
        "state": trial.state,
        "objectives": objectives,
        "feasible": all(each <= 0 for each in over),
        "params": int(costs["params"]),
        "macs": int(costs["macs"]),
        "bytes": costs.get("onnx_bytes"),
        "latency_ms": costs.get("latency_ms"),
        "peak_bytes": costs.get("peak_bytes"),
        "curve": [[share, dict(zip(materials.objectives, losses, strict=False))] for share, losses in trial.curve],
        "error": trial.error,
    }


def curve_of(materials: Materials, row: Mapping[str, Any], name: str) -> list[tuple[float, float]]:
    """(share of its length, loss of that objective) at each look at a trial, by its row; none where it is no objective."""
    deciding_one = deciding(materials)
    points = [(share, each if isinstance(each, Mapping) else {deciding_one: each}) for share, each in row["curve"]]
    return [
        (share, losses[name]) for share, losses in points if name in losses
    ]  # a folder of before has the deciding one alone


def rows_of(
    materials: Materials, history: Sequence[Trial], kept: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """A row a trial; with several objectives each has the hypervolume after it."""
    rows = [row_of(materials, trial, kept) for trial in history]
    if len(materials.objectives) < 2:
        return rows
    volumes = hypervolumes([trial.losses or None for trial in history], [trial.violations for trial in history])
    return [{**row, "hypervolume": volume} for row, volume in zip(rows, volumes, strict=True)]


def winners(materials: Materials, history: list[Trial], n: int) -> list[Trial]:
    """The n best of the Pareto fronts of feasible trials, within a front by the objective that validation scores.

    Raises TrialError when every trial failed, RefusedError when none is feasible.
    """
    complete = [trial for trial in history if trial.state == "complete"]
    if not complete:
        first_error = next((trial.error for trial in history if trial.error), "no result")
        failed = sum(trial.state == "failed" for trial in history)
        stopped = f", {len(history) - failed} were stopped" if failed < len(history) else ""
        raise TrialError(f"{'all ' if not stopped else ''}{failed} trials failed{stopped}; the first: {first_error}")
    feasible = [trial for trial in complete if is_feasible(trial)]
    if not feasible:
        raise RefusedError(f"none of {len(complete)} trials keeps the constraints", path="constraints")
    first = place_of(materials)
    chosen: list[Trial] = []
    for front in fronts([trial.losses for trial in feasible]):
        chosen += sorted(
            (feasible[i] for i in front), key=lambda trial: (trial.losses[first], trial.losses, trial.number)
        )
        if len(chosen) >= n:
            break
    return chosen[:n]


def place_of(materials: Materials) -> int:
    """Where among the objectives the one is that validation scores; the first one, where none is."""
    names = list(materials.objectives)
    return names.index(materials.objective) if materials.objective in names else 0


def deciding(materials: Materials) -> str:
    """The objective that decides within a front: the one at `place_of`."""
    return list(materials.objectives)[place_of(materials)]
