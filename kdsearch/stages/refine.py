"""Stage `refine`: short distillations over architectures x recipes, under a controller, stopped early at rungs."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdsearch.engine.cache import Live
from kdsearch.errors import RefusedError, TrialError
from kdsearch.kinds import Ask, Controller, Dim, Range, Stopper, Trial
from kdsearch.report.words import architecture
from kdsearch.search.pareto import fronts
from kdsearch.search.schedule import Piece, Schedule
from kdsearch.search.trials import Board, TrialLog
from kdsearch.stages.costs import bounds, violations
from kdsearch.stages.recall import is_outgrown, limits_met, recalled, repeated
from kdsearch.stages.weightings import WEIGHTINGS, scored_weightings
from kdsearch.store.artifacts import Artifact
from kdsearch.store.files import write_json
from kdsearch.store.hashing import derive
from kdsearch.training.keys import TRAINING, part_of
from kdsearch.training.materials import Materials
from kdsearch.training.opened import open_teachers
from kdsearch.training.request import Outcome, Request
from kdsearch.training.tools import Tools, limits_of
from kdsearch.training.trainings import Trainings

NAME = "refine"
NEEDS = ("prepare", "search")
READS = (*TRAINING, "constraints", "refine")
KEY = 12  # characters of a key that a dashboard shows


def is_stale(materials: Materials, made: Artifact) -> bool:
    """Whether trials in it failed of a limit that is higher now. It then is an input of the one that takes its place."""
    return is_outgrown(materials, made.facts["over"])


def make(materials: Materials, inputs: Mapping[str, Artifact], tools: Tools, work: Path, out: Path) -> dict[str, Any]:
    section = materials.study.config.refine
    controller = materials.make("controller", section.controller, "refine.controller")
    kept = offered(inputs["search"], controller)
    dims = [*architecture_dims(materials, kept), *materials.recipe.dims]
    stopper: Stopper[Any] = materials.make("stopper", section.stopper, "refine.stopper")
    teachers = open_teachers(materials, inputs["prepare"])
    attempt = len(list(work.glob("attempt-*")))

    key = f"{NAME} {work.name.removeprefix(f'{NAME}-')[:KEY]}"

    def log_of(attempt: int) -> TrialLog:
        return open_log(materials, tools.folder, f"{key}-{attempt}" if attempt else key, kept)

    log = log_of(attempt)
    if is_outgrown(materials, limits_met(log.read())):  # it was stopped, and goes on with a higher limit
        write_json(work / f"attempt-{attempt}", [])
        attempt += 1
        log = log_of(attempt)
    before = inputs.get(NAME)
    earlier = [before] if before else _of_earlier_searches(materials, inputs, tools)
    logs = [open_log(materials, tools.folder, each.facts["log"], kept) for each in earlier]
    known = recalled(materials, [each.read() for each in (*logs, *map(log_of, range(attempt)))])
    seed = derive(materials.seed, "refine") % 2**31
    tools.progress.begin(NAME, section.trials)
    judged = list(materials.objectives)[_place(materials)]
    plan = {
        "total": section.trials,
        "metric": judged,
        "direction": materials.objectives[judged],
        "at": _place(materials),
    }
    tools.events.write("trials", key=log.key, artifact=work.name, **plan)

    def between() -> None:
        tools.heed_stop()
        tools.progress.at(0, "scoring loss weightings")

    def told(trial: Trial) -> None:
        if log.put(trial) and trial.is_over:
            about = {"number": trial.number, "state": trial.state, "losses": list(trial.losses), "error": trial.error}
            tools.events.write("trial", key=log.key, **about)

    first = first_values(materials, kept, teachers, work, between)
    rungs = [rung for rung in stopper.rungs() if _epochs_at(rung, section.epochs) < section.epochs]
    schedule = Schedule(
        lambda history: next_ask(controller, dims, first, history, seed),
        stopper,
        rungs,
        section.trials,
        section.generation,
        lambda trial: _ended(materials, trial, kept),
        told,
        log.read(),
    )
    _run(materials, schedule, known, kept, work, inputs["prepare"], teachers, tools)
    history = schedule.trials
    rows = [row_of(materials, trial, kept) for trial in history]
    write_json(out / "trials.json", rows)
    if (work / WEIGHTINGS).exists():
        shutil.copyfile(work / WEIGHTINGS, out / WEIGHTINGS)
    if history and all(trial.state == "failed" for trial in history):
        write_json(work / f"attempt-{attempt}", rows)  # nothing to build on: the next run tries anew
    best = winners(materials, history, len(history))
    return {
        "log": log.key,
        "over": limits_met(history),
        "grown_from": [*before.facts["grown_from"], before.key] if before else [],
        "trials": len(history),
        "states": {state: sum(t.state == state for t in history) for state in ("complete", "pruned", "failed")},
        "ranked": [  # the feasible ones, the best first: `distill` takes as many as it is to train
            {"number": trial.number, "specs": specs_of(trial, kept), "values": recipe_values(materials, trial)}
            for trial in best
        ],
    }


def _of_earlier_searches(materials: Materials, inputs: Mapping[str, Artifact], tools: Tools) -> list[Artifact]:
    """What this stage made of the searches that this one has grown from: what a trial came to there, an equal one comes to here."""
    part = part_of(sys.modules[__name__], materials)
    found = []
    for key in inputs["search"].facts["grown_from"]:
        searched = replace(inputs["search"], key=key)
        found.append(tools.store.get(NAME, tools.store.key(NAME, part, {**inputs, "search": searched})))
    return [each for each in found if each is not None]


def offered(searched: Artifact, controller: Controller[Any]) -> dict[str, dict[str, Any]]:
    """Role -> key -> the row of each architecture that the controller may choose, the best score first.

    All that the search kept, where the controller looks at their scores; else its short list.
    """
    return {
        role: {each["key"]: each for each in facts["kept"] if controller.reads_facts or each["short"]}
        for role, facts in searched.facts["roles"].items()
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


def _keys(trial: Trial) -> list[str]:
    """Of its architectures, a role each."""
    return [str(value) for path, value in trial.values.items() if path.endswith(".architecture")]


def _role(path: str) -> str:
    parts = path.split(".")
    return parts[1] if parts[0] == "students" else parts[0]


def recipe_values(materials: Materials, trial: Trial) -> dict[str, Any]:
    known = {dim.path for dim in materials.recipe.dims}
    return {path: value for path, value in trial.values.items() if path in known}


def costs_of(materials: Materials, trial: Trial, kept: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Costs of the trial's shipped architectures, summed over their roles."""
    total: dict[str, float] = {}
    for role in materials.ships:
        by_key = kept[role]
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


def next_ask(
    controller: Any, dims: list[Dim], first: Sequence[Mapping[str, Any]], history: Sequence[Trial], seed: int
) -> Ask | None:
    """The next candidate: one to begin with, else the controller's; None where it has none."""
    if len(history) < len(first):
        return Ask(first[len(history)])
    return next(iter(controller.ask(None, dims, history, 1, seed)), None)


def open_log(materials: Materials, folder: Path, key: str, kept: Mapping[str, Mapping[str, Any]]) -> TrialLog:
    """The trials of a key: in the folder's journal, or where `run.storage` says."""

    def about(trial: Trial) -> dict[str, Any]:
        costs, words = costs_of(materials, trial, kept), " + ".join(map(architecture, _keys(trial)))
        return {"architecture": words, "params": int(costs["params"]), "macs": int(costs["macs"])}

    labels = materials.recipe.labels
    dims = {labels[dim.path]: dim for dim in materials.recipe.dims}
    board = Board(materials.objectives, folder.resolve().name, dims, tuple(bounds(materials)), about)
    return TrialLog(materials.study.config.run.storage or folder / "trials.journal", key, board)


def _run(
    materials: Materials,
    schedule: Schedule,
    known: Mapping[int, Trial],
    kept: Mapping[str, Mapping[str, Any]],
    work: Path,
    prepared: Artifact,
    teachers: Mapping[str, Live],
    tools: Tools,
) -> None:
    """Run every trial: handed out while a worker is free, taken as they end. `known`: those of earlier attempts, not run again."""
    trainings = Trainings(materials, work, prepared, teachers, tools, limits_of(materials))
    epochs, began = materials.study.config.refine.epochs, time.monotonic()
    numbers: dict[str, int] = {}
    tools.progress.had(schedule.done)
    try:
        while not schedule.is_over:
            tools.heed_stop()
            while trainings.free and (piece := schedule.next()) is not None:
                if (trial := repeated(known, piece)) is not None:
                    losses = trial.at(piece.until)
                    schedule.tell(piece.number, losses, "" if losses else trial.error, trial.over)
                    continue
                request = _request(materials, piece, kept, epochs)
                numbers[request.name] = piece.number
                trainings.submit(request, piece.since)
            for name, outcome in trainings.ended().items():
                number = numbers.pop(name)
                if isinstance(outcome, str):
                    schedule.tell(number, None, outcome, trainings.over.get(name))
                else:
                    schedule.tell(number, losses_of(materials, outcome, schedule.trials[number], kept))
            trainings.done = schedule.done
            tools.progress.at(schedule.done, best=_best_note(materials, schedule.trials))
    finally:
        trainings.close()
    seconds = time.monotonic() - began
    if trainings.busy_s:
        idle = max(1 - trainings.busy_s / (trainings.slots * seconds), 0.0)
        figures = {"workers": trainings.slots, "seconds": round(seconds, 3), "busy_s": round(trainings.busy_s, 3)}
        tools.events.write("workers", stage=NAME, **figures, idle=round(idle, 4))
        if trainings.slots > 1:
            tools.progress.say(f"refine: {trainings.slots} workers, idle {idle:.1%} of the time")


def _epochs_at(rung: float, epochs: int) -> int:
    return max(1, math.ceil(rung * epochs))


def _request(materials: Materials, piece: Piece, kept: Mapping[str, Mapping[str, Any]], epochs: int) -> Request:
    trial = Trial(piece.number, piece.values)
    values = recipe_values(materials, trial)
    return Request(f"trial-{piece.number}", "recipe", specs_of(trial, kept), values, epochs, piece.until)


def losses_of(
    materials: Materials, outcome: Outcome, trial: Trial, kept: Mapping[str, Mapping[str, Any]]
) -> tuple[float, ...] | None:
    """The objectives, all to be minimised; None where the procedure gives no score before its end."""
    if outcome.score is None:
        return None
    values = {**costs_of(materials, trial, kept), materials.objective: outcome.score}
    return tuple(
        -values[name] if direction == "max" else values[name] for name, direction in materials.objectives.items()
    )


def _ended(materials: Materials, trial: Trial, kept: Mapping[str, Mapping[str, Any]]) -> Trial:
    """A trial that is through: complete, or failed where an objective is no finite number."""
    losses = trial.at(1.0) or (math.nan,)
    if not all(map(math.isfinite, losses)):
        return replace(trial, state="failed", error=f"objective is {list(losses)}")
    over = violations(materials, costs_of(materials, trial, kept))
    return replace(trial, state="complete", losses=losses, violations=tuple(over.values()))


def row_of(materials: Materials, trial: Trial, kept: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A trial as the report shows it: objectives in their own direction, costs, recipe values."""
    objectives = {
        name: -loss if direction == "max" else loss
        for (name, direction), loss in zip(materials.objectives.items(), trial.losses, strict=False)
    }
    costs = costs_of(materials, trial, kept)
    return {
        "number": trial.number,
        "architecture": " + ".join(_keys(trial)),
        "values": recipe_values(materials, trial),
        "state": trial.state,
        "objectives": objectives,
        "feasible": all(each <= 0 for each in trial.violations),
        "params": int(costs["params"]),
        "macs": int(costs["macs"]),
        "bytes": costs.get("onnx_bytes"),
        "latency_ms": costs.get("latency_ms"),
        "curve": [[share, losses[_place(materials)]] for share, losses in trial.curve],
        "error": trial.error,
    }


def winners(materials: Materials, history: list[Trial], n: int) -> list[Trial]:
    """The n best of the Pareto fronts of feasible trials, within a front by the first objective.

    Raises TrialError when every trial failed, RefusedError when none is feasible.
    """
    complete = [trial for trial in history if trial.state == "complete"]
    if not complete:
        first_error = next((trial.error for trial in history if trial.error), "no result")
        raise TrialError(f"all {len(history)} trials failed; the first: {first_error}")
    feasible = [trial for trial in complete if all(each <= 0 for each in trial.violations)]
    if not feasible:
        raise RefusedError(f"none of {len(complete)} trials keeps the constraints", path="constraints")
    first = _place(materials)
    chosen: list[Trial] = []
    for front in fronts([trial.losses for trial in feasible]):
        chosen += sorted(
            (feasible[i] for i in front), key=lambda trial: (trial.losses[first], trial.losses, trial.number)
        )
        if len(chosen) >= n:
            break
    return chosen[:n]


def _place(materials: Materials) -> int:
    """Where among the objectives the one is that validation scores."""
    names = list(materials.objectives)
    return names.index(materials.objective) if materials.objective in names else 0


def _best_note(materials: Materials, history: Sequence[Trial]) -> str:
    losses = [trial.losses[_place(materials)] for trial in history if trial.losses]
    return f"best {materials.objective} {abs(min(losses)):.4f}" if losses else ""
