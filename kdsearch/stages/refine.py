"""Stage `refine`: short distillations over architectures x recipes, under a controller, stopped early at rungs."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from time import sleep
from typing import Any

from kdsearch.engine.cache import Live
from kdsearch.engine.checkpoint import owner_in
from kdsearch.errors import ArtifactError, KdsearchError, RefusedError
from kdsearch.kinds import Ask, Controller, Dim, Stopper, Trial
from kdsearch.kinds.controller import check_asks
from kdsearch.report.words import architecture as words_of
from kdsearch.search.schedule import Piece, Schedule, epochs_at, rungs_of
from kdsearch.search.storage import begin_storage
from kdsearch.search.storage import place_of as storage_of
from kdsearch.search.trials import Board, TrialLog
from kdsearch.stages.asked import check_ask, plain
from kdsearch.stages.costs import bounds
from kdsearch.stages.mirror import run_of_trial
from kdsearch.stages.quality import measure
from kdsearch.stages.recall import is_outgrown, limits_met, recalled, repeated
from kdsearch.stages.starts import EVERY, Start, next_start, starts_of, what_was_tried
from kdsearch.stages.trial_facts import (
    architecture,
    architecture_dims,
    costs_of,
    deciding,
    family_of,
    is_feasible,
    losses_of,
    offered,
    over_of,
    place_of,
    recipe_values,
    row_of,
    rows_of,
    score_of,
    specs_of,
    winners,
)
from kdsearch.stages.weightings import WEIGHTINGS
from kdsearch.store.artifacts import Artifact
from kdsearch.store.files import read_json, write_json
from kdsearch.store.folder import events_of
from kdsearch.store.hashing import derive
from kdsearch.training.keys import TRAINING, part_of
from kdsearch.training.materials import Materials
from kdsearch.training.opened import open_teachers
from kdsearch.training.request import Outcome, Request, owner_of
from kdsearch.training.share import begins
from kdsearch.training.tools import Tools, limits_of
from kdsearch.training.train import left_by
from kdsearch.training.trainings import Trainings

NAME = "refine"
NEEDS = ("prepare", "search")
READS = (*TRAINING, "constraints", "refine")
RULE = 10  # by which trials begin and are told of; those of another one are made anew
VAIN = 256  # candidates that a controller is asked for at most until one keeps the limits
KEY = 12  # characters of a key that a dashboard shows


def further(materials: Materials) -> dict[str, Any]:
    """What its key holds beside what it reads."""
    return {"rule": RULE}


def is_stale(materials: Materials, made: Artifact) -> bool:
    """Whether trials in it failed of a limit that is higher now. It then is an input of the one that takes its place."""
    return is_outgrown(materials, made.facts["over"])


def controller_of(materials: Materials) -> Controller[Any]:
    """What proposes trials. Raise UserError, before any work, where it cannot be asked here or for these objectives."""
    section = materials.study.config.refine
    return materials.controller(section.controller, "refine.controller", len(materials.objectives))


def stopper_of(materials: Materials) -> tuple[Stopper[Any], list[float]]:
    """What ends trials early, and at which shares of their length. Raise UserError where it has no such rungs."""
    section = materials.study.config.refine
    stopper: Stopper[Any] = materials.make("stopper", section.stopper, "refine.stopper")
    with materials.asking(stopper, "refine.stopper"), materials.host.naming("stopper", section.stopper.use):
        return stopper, rungs_of(stopper, section.epochs)


def check(materials: Materials) -> None:
    """Raise UserError, before any work, for a controller or a stopper that no trial could be asked of."""
    controller_of(materials)
    stopper_of(materials)


def make(materials: Materials, inputs: Mapping[str, Artifact], tools: Tools, work: Path, out: Path) -> dict[str, Any]:
    section = materials.study.config.refine
    controller = controller_of(materials)
    kept = offered(inputs["search"], controller, materials.ships, section.first)
    dims = [*architecture_dims(materials, kept), *materials.recipe.dims]
    stopper, rungs = stopper_of(materials)
    teachers = open_teachers(materials, inputs["prepare"])
    attempt = len(list(work.glob("attempt-*")))

    key = f"{NAME} {work.name.removeprefix(f'{NAME}-')[:KEY]}"

    def pause(seconds: float) -> None:
        tools.progress.at(tools.progress.done, "waiting for the trials' database, which does not answer")
        tools.heed_stop()
        sleep(seconds)

    def log_of(attempt: int) -> TrialLog:
        return open_log(materials, tools.folder, f"{key}-{attempt}" if attempt else key, kept, pause)

    log = log_of(attempt)
    if is_outgrown(materials, limits_met(log.read())):  # it was stopped, and goes on with a higher limit
        _end_attempt(work, attempt, [])
        attempt += 1
        log = log_of(attempt)
    before = inputs.get(NAME)
    earlier = [before] if before else _of_earlier_searches(materials, inputs, tools)
    logs = [open_log(materials, tools.folder, each.facts["log"], kept) for each in earlier]
    known = recalled(materials, [each.read() for each in (*logs, *map(log_of, range(attempt)))])
    seed = derive(materials.seed, "refine") % 2**31
    tools.progress.begin(NAME, section.trials)
    tools.events.write("trials", key=log.key, artifact=work.name, **ahead(materials))

    def ask(history: Sequence[Trial]) -> Ask | None:
        named = materials.host.naming("controller", section.controller.use)
        with materials.asking(controller, "refine.controller"), named:
            return next_ask(controller, dims, starts, history, seed, over)

    def over(trial: Trial) -> tuple[float, ...]:
        return over_of(materials, trial, kept)

    def between() -> None:
        tools.heed_stop()
        tools.progress.at(0, "scoring loss weightings")

    errors: set[str] = set()
    histories: dict[int, Sequence[Mapping[str, Any]]] = {}
    if tools.logs:  # of trials that go on: a mirror that is told of them keeps their curves
        files = {trial.number: _history(work, trial.number) for trial in log.read() if not trial.is_over}
        histories |= {number: read_json(file) for number, file in files.items() if file.exists()}

    def told(trial: Trial) -> None:
        if tools.logs:  # first: what the log has ended is not told again
            row = row_of(materials, trial, kept)
            history = (histories.pop if trial.is_over else histories.get)(trial.number, ())
            tools.logs.put(run_of_trial(materials, row, log.key, section.epochs, history))
        if log.put(trial) and trial.is_over:
            if trial.error and trial.error not in errors:  # an equal one says nothing more
                errors.add(trial.error)
                tools.progress.say(f"trial {trial.number} failed: {trial.error}")
            _announce(trial, log, tools)

    starts = starts_of(materials, inputs["search"], kept, teachers, work, between)
    with log.held():
        for trial in _unannounced(log, tools):
            _announce(trial, log, tools)
        schedule = Schedule(
            ask,
            stopper,
            rungs,
            section.trials,
            section.generation,
            lambda trial: _ended(materials, trial, kept),
            told,
            log.read(),
        )
        _run(materials, schedule, known, kept, work, inputs["prepare"], teachers, tools, histories)
    history = schedule.trials
    rows = rows_of(materials, history, kept)
    write_json(out / "trials.json", rows)
    if (work / WEIGHTINGS).exists():
        shutil.copyfile(work / WEIGHTINGS, out / WEIGHTINGS)
    if history and not any(trial.state == "complete" for trial in history):
        _end_attempt(work, attempt, rows)  # nothing to build on: the next run tries anew
    best = winners(materials, history, len(history))
    return {
        "log": log.key,
        "over": limits_met(history),
        "grown_from": [*before.facts["grown_from"], before.key] if before else [],
        "trials": len(history),
        "first": what_was_tried(starts, history),
        "reads_facts": controller.reads_facts,
        "epochs": epochs_trained(history, section.epochs),
        "best": best_of(materials, history),
        "states": {state: sum(t.state == state for t in history) for state in ("complete", "pruned", "failed")},
        # The feasible ones, the best first: `distill` takes as many as it is to train.
        "ranked": [_to_train(materials, trial, kept) for trial in best],
        "stopped": [_to_train(materials, trial, kept) for trial in history if _is_stopped(materials, trial, kept)],
    }


def _end_attempt(work: Path, attempt: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """The next run's trials are others; what they find of these goes on from its checkpoint, with all of its time."""
    for folder in work.glob("trial-*"):
        begins(folder)
    write_json(work / f"attempt-{attempt}", rows)


def _announce(trial: Trial, log: TrialLog, tools: Tools) -> None:
    about = {"number": trial.number, "state": trial.state, "losses": list(trial.losses), "error": trial.error}
    tools.events.write("trial", key=log.key, feasible=is_feasible(trial), **about)


def _unannounced(log: TrialLog, tools: Tools) -> list[Trial]:
    """Those that ended in another folder, whose database is this one's, or right before a kill."""
    announced: set[int] = set()
    with suppress(ArtifactError):  # of events that somebody spoilt; what is announced twice counts once
        events = [each for each in events_of(tools.folder) if each["event"] == "trial"]
        announced = {each["number"] for each in events if each.get("key") == log.key}
    return [trial for trial in log.read() if trial.is_over and trial.number not in announced]


def _is_stopped(materials: Materials, trial: Trial, kept: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a rung stopped it, and nothing else is against it."""
    return trial.state == "pruned" and all(each <= 0 for each in over_of(materials, trial, kept))


def _to_train(materials: Materials, trial: Trial, kept: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What `distill` trains of a trial, and what was known of it before."""
    specs = specs_of(trial, kept)
    return {
        "number": trial.number,
        "specs": specs,
        "values": recipe_values(materials, trial),
        "score": score_of(materials, trial, kept),
        "family": family_of(materials, specs),
    }


def ahead(materials: Materials) -> dict[str, Any]:
    """What `status` has to know of the trials to come: how many, and which loss is judged. A cost has no title or unit."""
    name = deciding(materials)
    return {
        "total": materials.study.config.refine.trials,
        "metric": name,
        **(measure(materials.metrics[name]) if name in materials.metrics else {}),
        "direction": materials.objectives[name],
        "at": place_of(materials),
    }


def best_of(materials: Materials, history: Sequence[Trial]) -> dict[str, Any] | None:
    """The best trial that went its whole length and keeps the limits, by the loss that is judged; None where there is none."""
    best, told = _best(materials, history), ahead(materials)
    if best is None:
        return None
    named: dict[str, Any] = {name: told[name] for name in ("metric", "title", "unit") if name in told}
    sign = -1 if told["direction"] == "max" else 1
    return {"number": best.number, **named, "value": sign * best.losses[told["at"]]}


def _of_earlier_searches(materials: Materials, inputs: Mapping[str, Artifact], tools: Tools) -> list[Artifact]:
    """What this stage made of the searches that this one has grown from: what a trial came to there, an equal one comes to here."""
    part = part_of(sys.modules[__name__], materials)
    found = []
    for key in inputs["search"].facts["grown_from"]:
        searched = replace(inputs["search"], key=key)
        found.append(tools.store.get(NAME, tools.store.key(NAME, part, {**inputs, "search": searched})))
    return [each for each in found if each is not None]


def next_ask(
    controller: Any,
    dims: list[Dim],
    starts: Sequence[Start],
    history: Sequence[Trial],
    seed: int,
    over: Callable[[Trial], tuple[float, ...]] = lambda trial: (),
) -> Ask | None:
    """The next candidate, None where there is none: a start that is early, or one in EVERY; the others are the controller's, while
    there are both. `over`: how far a trial is above each limit."""
    start = next_start(starts, history)
    if start is not None and (start.is_early or len(history) % EVERY == 0):
        return Ask(start.values)
    return _keeping(controller, dims, history, seed, over, Ask(start.values) if start else None)


def _keeping(
    controller: Any,
    dims: list[Dim],
    history: Sequence[Trial],
    seed: int,
    over: Callable[[Trial], tuple[float, ...]],
    other: Ask | None,
) -> Ask | None:
    """The controller's next candidate that keeps the limits, `other` where it has none.

    Networks that ship together may break limits that each of them keeps. The controller is told such ones as a search tells them,
    at this ask alone: nothing of them is trained, so that they are no trials.

    Raises RefusedError where none of VAIN keeps the limits, or of all that there are, and there is nothing else to begin with.
    """
    known = [*history]
    for number in range(len(known), len(known) + VAIN):
        asked = controller.ask(None, dims, known, 1, seed)
        check_asks(asked)
        first = [*islice(asked, 1)]
        if not first:
            break
        ask: Ask = plain(first[0])
        check_ask(ask, dims)
        trial = Trial(number, ask.values, ask.spec, "pruned")
        broken = over(trial)
        if all(each <= 0 for each in broken):
            return ask
        known.append(replace(trial, violations=broken))
    if other is None and not history and known:
        raise RefusedError(
            f"networks that ship together have to keep the constraints together, and none of those asked for ({len(known)}) do",
            path="constraints",
            fix="Relax a constraint, or narrow the spaces to smaller networks.",
        )
    return other


def open_log(
    materials: Materials,
    folder: Path,
    key: str,
    kept: Mapping[str, Mapping[str, Any]],
    pause: Callable[[float], None] = sleep,
) -> TrialLog:
    """The trials of a key: in the folder's journal, or where `run.storage` says. `pause`: see `TrialLog`."""

    def about(trial: Trial) -> dict[str, Any]:
        costs = costs_of(materials, trial, kept)
        words = words_of(architecture(materials, specs_of(trial, kept)))
        return {"architecture": words, "params": int(costs["params"]), "macs": int(costs["macs"])}

    labels = materials.recipe.labels
    dims = {labels[dim.path]: dim for dim in materials.recipe.dims}
    board = Board(
        materials.objectives, folder.resolve().name, dims, tuple(bounds(materials)), about, place_of(materials)
    )
    storage = storage_of(materials.study.config.run.storage, materials.study.folder, folder)
    return TrialLog(storage, key, board, pause)


def begin_log(materials: Materials) -> None:
    """Make the tables of `run.storage` where it has none. Raise StudyError, before hours of work need it, where that cannot be."""
    study = materials.study
    if study.config.run.storage is not None:
        try:
            begin_storage(str(storage_of(study.config.run.storage, study.folder, study.folder)))
        except KdsearchError as error:
            raise study.place(error) from error.__cause__


def _run(
    materials: Materials,
    schedule: Schedule,
    known: Mapping[int, Trial],
    kept: Mapping[str, Mapping[str, Any]],
    work: Path,
    prepared: Artifact,
    teachers: Mapping[str, Live],
    tools: Tools,
    histories: dict[int, Sequence[Mapping[str, Any]]],
) -> None:
    """Run every trial: handed out while a worker is free, taken as they end.

    Args:
        known: those of earlier attempts, not run again.
        histories: is given what the trials tell of their epochs, where loggers want it, before it is told how far they are.
    """
    trainings = Trainings(materials, work, prepared, teachers, tools, limits_of(materials))
    epochs, began = materials.study.config.refine.epochs, time.monotonic()
    pieces: dict[str, Piece] = {}
    tools.progress.had(schedule.done)
    trainings.done = schedule.done
    best = _best(materials, schedule.trials)
    try:
        while not schedule.is_over:
            tools.heed_stop()
            while trainings.free and (piece := schedule.next()) is not None:
                if (trial := repeated(known, piece)) is not None:
                    losses = trial.at(piece.until)
                    tools.progress.had(piece.until - piece.since)
                    schedule.tell(piece.number, losses, "" if losses else trial.error, trial.over)
                    best = _best(materials, (best, schedule.trials[piece.number]))
                    continue
                request = _request(materials, piece, kept, epochs)
                if not piece.since:
                    _make_way(materials, work, request, piece.number)
                pieces[request.name] = piece
                trainings.submit(request, piece.since)
            for name, outcome in trainings.ended().items():
                piece = pieces.pop(name)
                number = piece.number
                if isinstance(outcome, str):
                    schedule.tell(number, None, outcome, trainings.over.get(name))
                else:
                    outcome = as_at(outcome, piece.until, epochs)
                    if tools.logs:
                        histories[number] = outcome.history
                    write_json(_history(work, number), outcome.history)
                    schedule.tell(number, losses_of(materials, outcome, schedule.trials[number], kept))
                best = _best(materials, (best, schedule.trials[number]))
            trainings.done = schedule.done
            tools.progress.at(schedule.done, best=_best_note(materials, best))
    finally:
        trainings.close()
    seconds = time.monotonic() - began
    if trainings.busy_s:
        idle = max(1 - trainings.busy_s / trainings.slot_s, 0.0)
        figures = {"workers": trainings.most, "seconds": round(seconds, 3), "busy_s": round(trainings.busy_s, 3)}
        tools.events.write("workers", stage=NAME, **figures, idle=round(idle, 4))
        if trainings.most > 1:
            tools.progress.say(f"refine: {trainings.most} workers, idle {idle:.1%} of the time")


def _make_way(materials: Materials, work: Path, request: Request, number: int) -> None:
    """Remove what another trial of this number left in an earlier attempt, that the controller did not ask for this time."""
    folder, owner = work / request.name, owner_of(materials, request)
    if any(owner_in(file) not in ("", owner) for file in folder.glob("phase-*.safetensors")):
        shutil.rmtree(folder)
        _history(work, number).unlink(missing_ok=True)


def _history(work: Path, number: int) -> Path:
    """Where a trial's epochs are kept for mirrors, which may be asked for later, until the stage is done."""
    return work / f"history-{number}.json"


def as_at(outcome: Outcome, until: float, epochs: int) -> Outcome:
    """The outcome at this share of the trial's epochs. One that went on before a stop may be further: its checkpoint is."""
    rows = [row for row in outcome.history if row["epoch"] <= epochs_at(until, epochs)]
    if until == 1.0 or len(rows) == len(outcome.history):
        return outcome
    left = left_by(rows, keeps_best=True)
    return replace(outcome, history=rows, score=left.get("score"), beside=left.get("beside", {}))


def epochs_trained(history: Sequence[Trial], epochs: int) -> int:
    """Of all trials, as far as each of them went."""
    return sum(epochs_at(max(share for share, _ in trial.curve), epochs) for trial in history if trial.curve)


def _request(materials: Materials, piece: Piece, kept: Mapping[str, Mapping[str, Any]], epochs: int) -> Request:
    trial = Trial(piece.number, piece.values)
    values = recipe_values(materials, trial)
    return Request(f"trial-{piece.number}", "recipe", specs_of(trial, kept), values, epochs, piece.until)


def _ended(materials: Materials, trial: Trial, kept: Mapping[str, Mapping[str, Any]]) -> Trial:
    """A trial that is through: complete, or failed where an objective is no finite number."""
    losses = trial.at(1.0) or (math.nan,)
    if not all(map(math.isfinite, losses)):
        return replace(trial, state="failed", error=f"objective is {list(losses)}")
    return replace(trial, state="complete", losses=losses, violations=over_of(materials, trial, kept))


def _best_note(materials: Materials, best: Trial | None) -> str:
    if best is None:
        return ""
    sign = -1 if materials.objectives[deciding(materials)] == "max" else 1
    return f"best {deciding(materials)} {sign * best.losses[place_of(materials)]:.4f}"


def _best(materials: Materials, trials: Sequence[Trial | None]) -> Trial | None:
    """Of those that are complete and keep the limits."""
    able = (trial for trial in trials if trial is not None and trial.state == "complete" and is_feasible(trial))
    at = place_of(materials)
    return min(able, key=lambda trial: (trial.losses[at], trial.number), default=None)
