"""Stage `refine`: short distillations over architectures x recipes, under a controller, stopped early at rungs."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kdsearch.engine.cache import Live
from kdsearch.errors import RefusedError, TrialError
from kdsearch.kinds import Ask, Dim, Range, Stopper, Trial
from kdsearch.search.axis import encode
from kdsearch.search.pareto import fronts
from kdsearch.search.trials import Trials
from kdsearch.stages.costs import violations
from kdsearch.stages.keys import TRAINING
from kdsearch.stages.materials import Materials
from kdsearch.stages.request import Outcome, Request
from kdsearch.stages.tools import Tools, limits_of
from kdsearch.stages.training import open_teachers
from kdsearch.stages.trainings import run_trainings
from kdsearch.stages.weightings import WEIGHTINGS, scored_weightings
from kdsearch.store.artifacts import Artifact
from kdsearch.store.files import write_json
from kdsearch.store.hashing import derive

NAME = "refine"
NEEDS = ("prepare", "search")
READS = (*TRAINING, "constraints", "refine")


def make(materials: Materials, inputs: Mapping[str, Artifact], tools: Tools, work: Path, out: Path) -> dict[str, Any]:
    section = materials.study.config.refine
    kept = {
        role: {each["key"]: each for each in facts["kept"]} for role, facts in inputs["search"].facts["roles"].items()
    }
    dims = [*architecture_dims(materials, kept), *materials.recipe.dims]
    stopper: Stopper[Any] = materials.make("stopper", section.stopper, "refine.stopper")
    controller = materials.make("controller", section.controller, "refine.controller")
    teachers = open_teachers(materials, inputs["prepare"])
    attempt = len(list(work.glob("attempt-*")))
    name = work.name + (f"-{attempt}" if attempt else "")
    journal = Trials(tools.folder / "trials.journal", name, len(materials.objectives), dims)
    seed = derive(materials.seed, "refine") % 2**31
    tools.progress.begin(NAME, section.trials)
    history: list[Trial] = []

    def between() -> None:
        tools.heed_stop()
        tools.progress.at(0, "scoring loss weightings")

    first = first_values(materials, kept, teachers, work, between)
    while len(history) < section.trials:
        begin = len(history)
        n = min(section.generation, section.trials - begin)
        asked = asks(controller, dims, first, history, n, seed)
        if not asked:
            break
        tools.progress.at(begin, _best_note(materials, history))
        told = journal.read()
        if len(told) < begin + len(asked):  # a kill between two trials of a generation leaves a part of it told
            numbered = {begin + i: ask for i, ask in enumerate(asked)}
            for trial in _generation(
                materials, numbered, kept, stopper, history, work, inputs["prepare"], teachers, tools
            ):
                if journal.append(trial):
                    tools.events.write(
                        "trial", number=trial.number, state=trial.state, losses=list(trial.losses), error=trial.error
                    )
            told = journal.read()
        history = told[: begin + len(asked)]
    rows = [row_of(materials, trial, kept) for trial in history]
    write_json(out / "trials.json", rows)
    if (work / WEIGHTINGS).exists():
        shutil.copyfile(work / WEIGHTINGS, out / WEIGHTINGS)
    if history and all(trial.state == "failed" for trial in history):
        write_json(work / f"attempt-{attempt}", rows)  # nothing to build on: the next run tries anew
    best = winners(materials, history, len(history))
    return {
        "trials": len(history),
        "states": {state: sum(t.state == state for t in history) for state in ("complete", "pruned", "failed")},
        "ranked": [  # the feasible ones, the best first: `distill` takes as many as it is to train
            {"number": trial.number, "specs": specs_of(trial, kept), "values": recipe_values(materials, trial)}
            for trial in best
        ],
    }


def architecture_dims(materials: Materials, kept: Mapping[str, Mapping[str, Any]]) -> list[Dim]:
    """One dimension a role: which of the kept architectures, with what the search knows of each."""
    return [
        Dim(
            f"{materials.study.path_of_student(role)}.architecture",
            Range(
                choices=tuple(by_key),
                facts=tuple(facts_of({"": each["score"], **each["scores"]}) for each in by_key.values()),
            ),
        )
        for role, by_key in kept.items()
    ]


def facts_of(scores: Mapping[str, float | None]) -> tuple[float, ...]:
    """What a controller may know of an architecture: its scores, the combined one first; none = the worst."""
    return tuple(-math.inf if each is None else each for each in scores.values())


def specs_of(trial: Trial, kept: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """role -> architecture spec."""
    found = {}
    for role, by_key in kept.items():
        key = next(
            value for path, value in trial.values.items() if path.endswith(".architecture") and _role(path) == role
        )
        found[role] = by_key[key]["spec"]
    return found


def _role(path: str) -> str:
    parts = path.split(".")
    return parts[1] if parts[0] == "students" else parts[0]


def recipe_values(materials: Materials, trial: Trial) -> dict[str, Any]:
    known = {dim.path for dim in materials.recipe.dims}
    return {path: value for path, value in trial.values.items() if path in known}


def costs_of(trial: Trial, kept: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Costs of the trial's shipped architectures, summed over roles."""
    total: dict[str, float] = {}
    for role, by_key in kept.items():
        key = next(
            value for path, value in trial.values.items() if path.endswith(".architecture") and _role(path) == role
        )
        for name, value in by_key[key]["costs"].items():
            total[name] = total.get(name, 0.0) + value
    return total


def first_values(
    materials: Materials,
    kept: Mapping[str, Mapping[str, Any]],
    teachers: Mapping[str, Live],
    work: Path,
    between: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """The candidates to begin with: the best-scored architecture with the best-scored weighting, then with plain values.

    `between`: see `scored_weightings`.
    """
    architectures = {dim.path: dim.range.choices[0] for dim in architecture_dims(materials, kept)}
    plain = materials.recipe.default()
    starts = [plain]
    if materials.study.config.refine.weightings:
        specs = specs_of(Trial(0, architectures), kept)
        scored = scored_weightings(materials, specs, teachers, work, between)
        best = max(scored, key=lambda each: each.score, default=None)  # the first one among equals
        starts = [dict(best.values), plain] if best is not None and best.values != plain else starts
    return [{**start, **architectures} for start in starts]


def asks(
    controller: Any, dims: list[Dim], first: list[dict[str, Any]], history: list[Trial], n: int, seed: int
) -> list[Ask]:
    """`n` candidates: those to begin with that are not tried yet, then the controller's."""
    begin = [Ask(values) for values in first[len(history) :][:n]]
    if len(begin) == n:
        return begin
    known = {encode(each.values) for each in begin}  # the controller knows nothing of them yet
    others = [ask for ask in controller.ask(None, dims, history, n, seed) if encode(ask.values) not in known]
    return begin + others[: n - len(begin)]


def _generation(
    materials: Materials,
    asked: Mapping[int, Ask],
    kept: Mapping[str, Mapping[str, Any]],
    stopper: Stopper[Any],
    history: list[Trial],
    work: Path,
    prepared: Artifact,
    teachers: Mapping[str, Live],
    tools: Tools,
) -> list[Trial]:
    """Trials of one generation in the order of their numbers: run to each rung together, the stopper choosing who goes on."""
    epochs = materials.study.config.refine.epochs
    alive, curves = dict(asked), {number: list[tuple[float, float]]() for number in asked}
    ended: dict[int, Trial] = {}
    base = tools.progress.done
    since = 0.0
    rungs = [rung for rung in stopper.rungs() if _epochs_at(rung, epochs) < epochs]
    for rung in [*rungs, 1.0]:
        requests = [_request(materials, number, ask, kept, epochs, rung) for number, ask in alive.items()]
        outcomes = run_trainings(
            materials, requests, work, prepared, teachers, tools, limits=limits_of(materials), since=since
        )
        since = rung
        losses: dict[int, float] = {}
        for number in list(alive):
            outcome = outcomes[f"trial-{number}"]
            if isinstance(outcome, str):
                ended[number] = _trial(number, alive.pop(number), "failed", curves[number], error=outcome)
                continue
            losses[number] = _as_loss(materials, outcome)
            curves[number].append((rung, losses[number]))
        if rung == 1.0:
            for number, ask in alive.items():
                ended[number] = _complete(materials, number, ask, kept, losses[number], curves[number])
            break
        going = stopper.go_on(rung, losses, history)
        for number in [each for each in alive if each not in going]:
            ended[number] = _trial(number, alive.pop(number), "pruned", curves[number])
        if not alive:
            break
    tools.progress.at(base + len(asked))
    return [ended[number] for number in sorted(ended)]


def _epochs_at(rung: float, epochs: int) -> int:
    return max(1, math.ceil(rung * epochs))


def _request(
    materials: Materials, number: int, ask: Ask, kept: Mapping[str, Mapping[str, Any]], epochs: int, until: float
) -> Request:
    trial = Trial(number, ask.values)
    return Request(f"trial-{number}", "recipe", specs_of(trial, kept), recipe_values(materials, trial), epochs, until)


def _as_loss(materials: Materials, outcome: Outcome) -> float:
    """The first metric objective as a loss; NaN where the procedure gives none before its end."""
    if outcome.score is None:
        return math.nan
    return -outcome.score if materials.metrics[materials.objective].direction == "max" else outcome.score


def _complete(
    materials: Materials,
    number: int,
    ask: Ask,
    kept: Mapping[str, Mapping[str, Any]],
    loss: float,
    curve: list[tuple[float, float]],
) -> Trial:
    trial = Trial(number, ask.values)
    costs = costs_of(trial, kept)
    losses = []
    for name, direction in materials.objectives.items():
        value = loss if name == materials.objective else (costs[name] if direction == "min" else -costs[name])
        losses.append(value)
    if any(not math.isfinite(value) for value in losses):
        return _trial(number, ask, "failed", curve, error=f"objective is {losses}")
    over = violations(materials, costs)
    return Trial(number, ask.values, None, "complete", tuple(losses), tuple(over.values()), tuple(curve))


def _trial(number: int, ask: Ask, state: Any, curve: list[tuple[float, float]], error: str = "") -> Trial:
    return Trial(number, ask.values, None, state, (), (), tuple(curve), error)


def row_of(materials: Materials, trial: Trial, kept: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A trial as the report shows it: objectives in their own direction, costs, recipe values."""
    objectives = {
        name: -loss if direction == "max" else loss
        for (name, direction), loss in zip(materials.objectives.items(), trial.losses, strict=False)
    }
    costs = costs_of(trial, kept)
    keys = [value for path, value in trial.values.items() if path.endswith(".architecture")]
    return {
        "number": trial.number,
        "architecture": " + ".join(keys),
        "values": recipe_values(materials, trial),
        "state": trial.state,
        "objectives": objectives,
        "feasible": all(each <= 0 for each in trial.violations),
        "params": int(costs["params"]),
        "macs": int(costs["macs"]),
        "bytes": costs.get("onnx_bytes"),
        "latency_ms": costs.get("latency_ms"),
        "curve": [list(point) for point in trial.curve],
        "error": trial.error,
    }


def winners(materials: Materials, history: list[Trial], n: int) -> list[Trial]:
    """The n best of the Pareto fronts of feasible trials, within a front by the first objective.

    Raises TrialError when every trial failed, RefusedError when none is feasible.
    """
    complete = [trial for trial in history if trial.state == "complete"]
    if not complete:
        errors = {trial.error for trial in history if trial.error}
        raise TrialError(f"all {len(history)} trials failed; the first: {sorted(errors)[0] if errors else 'no result'}")
    feasible = [trial for trial in complete if all(each <= 0 for each in trial.violations)]
    if not feasible:
        raise RefusedError(f"none of {len(complete)} trials keeps the constraints", path="constraints")
    first = list(materials.objectives).index(materials.objective) if materials.objective in materials.objectives else 0
    chosen: list[Trial] = []
    for front in fronts([trial.losses for trial in feasible]):
        chosen += sorted(
            (feasible[i] for i in front), key=lambda trial: (trial.losses[first], trial.losses, trial.number)
        )
        if len(chosen) >= n:
            break
    return chosen[:n]


def _best_note(materials: Materials, history: list[Trial]) -> str:
    first = list(materials.objectives).index(materials.objective) if materials.objective in materials.objectives else 0
    losses = [trial.losses[first] for trial in history if trial.losses]
    return f"best {materials.objective} {abs(min(losses)):.4f}" if losses else ""
