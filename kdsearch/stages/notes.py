"""What a person should know of a result: what makes it doubtful, and what is worth saying beside it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kdsearch.report import values
from kdsearch.search.pick import parsed
from kdsearch.stages.costs import costs_at
from kdsearch.stages.quality import SHARE, as_before, file_label, goodness, measure, no_smaller, shown, told, tolerance
from kdsearch.stages.starts import BEST_SCORED
from kdsearch.store.artifacts import Artifact
from kdsearch.store.files import read_json
from kdsearch.study.rules import bare
from kdsearch.study.summary import left_out
from kdsearch.training.materials import Materials
from kdsearch.training.normalize import said, suspects

DEAR = 10  # times the difference that decides nothing: 5 points of a share


def control_of(exported: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """What the result says of a control; None where it was not trained."""
    quality = exported["qualities"]["runs"].get(name)
    return None if quality is None else told(quality)


def copied(facts: Mapping[str, Any]) -> list[str]:
    """Of each split with copies of training samples, by the facts of a data source: so."""
    return [
        f"{n:,} samples of '{split}' are copies of training samples: what is measured there is too good."
        for split, n in facts.get("copies", {}).items()
    ]


def noted(facts: Mapping[str, Any]) -> list[str]:
    """What a data source says of itself, by its facts."""
    return [f"Data: {text}" for text in facts.get("notes", ())]


def warnings_of(materials: Materials, inputs: Mapping[str, Artifact]) -> list[str]:
    """What makes the whole result doubtful: shown before anything else."""
    exported, found = inputs["export"].facts, copied(inputs["prepare"].facts["data"]["facts"])
    baseline = (control_of(exported, "baseline") or {}).get("quality")
    shipped = [each["metrics"] for each in exported["shipped_roles"].values()] or [exported["shipped"]]
    if any("teacher_agreement" in each for each in shipped):
        some = "Some samples" if any("labeled_accuracy" in each for each in shipped) else "The samples"
        found.append(f"{some} of the test split have no label: there the teacher's class counts as right.")
    for name in materials.study.teachers:
        found += inputs["prepare"].facts["teachers"][name].get("warnings", [])
        teacher = exported["qualities"]["teachers"].get(name)
        if teacher and baseline and -math.inf < goodness(teacher) < goodness(baseline):
            found.append(
                f"Teacher '{name}' ({shown(teacher, name=True)} on the test split) is worse than the student that was trained "
                f"on the labels alone ({shown(baseline)}): it has little to teach. Check its weights{suspects(materials)}, or "
                "train it longer."
            )
    return found


def _numberless(materials: Materials, exported: Mapping[str, Any]) -> list[str]:
    """Metrics that the study names and that have no value of what ships: none could be judged, or it was no finite number."""
    found = [each["metrics"] for each in exported["shipped_roles"].values()] or [exported["shipped"]]
    asked = [bare(use.use) for use in materials.study.config.metrics]
    return [
        f"Metric '{name}' has no finite value on the test split, and is left out."
        for name in dict.fromkeys(asked)
        if any(name not in each for each in found)
    ]


def notes_of(materials: Materials, inputs: Mapping[str, Artifact], exports: list[dict[str, Any]]) -> list[str]:
    notes = noted(inputs["prepare"].facts["data"]["facts"])
    notes += [
        note
        for name, facts in inputs["prepare"].facts["teachers"].items()
        for note in said(name, facts.get("normalize"))
    ]
    if at := costs_at(materials):
        masks = {each.name for each in materials.io.inputs if each.kind in ("mask", "present")}
        sizes = " and ".join(f"{name} of {'x'.join(map(str, each))}" for name, each in at.items() if name not in masks)
        notes.append(f"MACs and latencies are of one sample with {sizes}; the files take any size.")
    notes += [note for facts in inputs["search"].facts["roles"].values() for note in facts["notes"]]
    if materials.study.config.distill.controls and (why := left_out(materials.study)):
        notes.append(f"{why[0].upper()}{why[1:]}.")
    notes += [note for each in inputs["prepare"].facts["teachers"].values() if (note := each.get("note"))]
    for name, each in inputs["prepare"].facts["teachers"].items():
        notes += [f"Teacher '{name}': {text}" for text in each.get("notes", ())]
    notes += _numberless(materials, inputs["export"].facts)
    notes += _not_smaller(materials, inputs)
    for row in exports:
        which = f"{row['format']} of all students together" if row.get("role") else row["format"]
        said_of = [f"{which} is {over:.1%} above the study's limit of {name}." for name, over in row["over"].items()]
        notes += [note for note in said_of if note not in notes]  # of a format, not of each role's file
        notes += [note] if (note := as_before(row)) else []
        if row["slower_than_fp32"]:
            notes.append(
                f"{file_label(row)} is slower than fp32 on this machine ({row['latency_ms']['median']:.3g} ms a sample)."
            )
        if tuned := row["latency_tuned_ms"]:
            options = ", ".join(f"{name}={value}" for name, value in row["session_options"].items())
            notes.append(
                f"{file_label(row)} takes {tuned['median']:.3g} ms instead of {row['latency_ms']['median']:.3g} ms in a session "
                f"with {options}: its card shows how."
            )
    notes += no_smaller(exports)
    for role, each in inputs["compress"].facts.get("saved", {}).items():
        if each["reason"]:
            notes.append(f"The pruned '{role}' is not saved as a network: {each['reason']}.")
    notes += _cost_of_pruning(materials, inputs["compress"])
    notes += _failed(inputs["refine"])
    notes += _level(materials, inputs["distill"])
    notes += _at_rung(materials, inputs["distill"])
    notes += _leftover(inputs["distill"])
    notes += _best_is_no_find(materials, inputs)
    notes += not_asked(materials.study.config.export.min_agreement, exports)
    distilled = inputs["distill"].facts
    notes += [f"Recipe: {text}" for text in distilled["runs"][distilled["winner"]].get("notes", ())]
    for each in distilled.get("failed", ()):  # a folder of before has none
        notes.append(f"Trial {each['trial']} began at full length, and failed: {each['error']}.")
    for name, run in distilled["runs"].items():
        if run["error"]:
            notes.append(f"{name} failed: {run['error']}")
    return notes


def _cost_of_pruning(materials: Materials, compressed: Artifact) -> list[str]:
    """What it took of a student on validation, recovered, where that is DEAR times what decides nothing, or more."""
    steps, notes = (compressed.facts.get("pruned") or {}).get("steps"), list[str]()
    if not steps:
        return []
    metric = materials.metrics[materials.objective]
    for role, first in steps[0]["roles"].items():
        about = {"metric": materials.objective, **measure(metric)}
        sign = -1 if metric.direction == "min" else 1  # scores are higher where they are better
        whole, cut = (
            {**about, "value": sign * each} for each in (first["score_before"], steps[-1]["roles"][role]["score"])
        )
        if goodness(whole) - goodness(cut) >= DEAR * tolerance(whole):
            notes.append(
                f"Pruning '{role}' costs much: {shown(whole, name=True)} on validation before, {shown(cut)} after recovery. Prune "
                "less, or recover for longer (`recover_epochs`)."
            )
    return notes


def _failed(refined: Artifact) -> list[str]:
    """How many trials failed, and what most of them failed of."""
    if not refined.facts["states"]["failed"]:
        return []
    errors = Counter(row["error"] for row in read_json(refined.path / "trials.json") if row["state"] == "failed")
    (error, _), *others = errors.most_common()
    rest = f"; others of {len(others)} other errors" if others else ""
    return [f"{errors.total():,} of {refined.facts['trials']:,} trials failed: {error}{rest}"]


def _level(materials: Materials, distilled: Artifact) -> list[str]:
    """Which trials validation cannot tell from the best one, and what was made of that."""
    level = distilled.facts.get("level")  # a folder of before has none
    if not level:
        return []
    error = distilled.facts["error"]
    metric = materials.metrics[materials.objective]
    size = f"{100 * error:.1f} points" if metric.unit == SHARE else f"{values.level(error)} {metric.unit}".rstrip()
    apart = f"Validation cannot tell trials {_listed(sorted(level))} apart (a standard error of {size})"
    trained = [name for name in distilled.facts["runs"] if name.startswith("winner-")]
    is_last_word = not distilled.facts.get("rung") and len(trained) == 1
    return [f"{apart}: trial {distilled.facts['trial']} was taken." if is_last_word else f"{apart}."]


def _at_rung(materials: Materials, distilled: Artifact) -> list[str]:
    """What the finalists came to before one of them went on."""
    rows = [row for row in distilled.facts.get("rung", []) if row["score"] is not None]  # a folder of before has none
    if len(rows) < 2:
        return []
    about = {"metric": materials.objective, **measure(materials.metrics[materials.objective])}
    came = [f"trial {row['trial']} {shown({**about, 'value': row['score']})}" for row in rows]
    name, at = about["title"] or materials.objective, f"{rows[0]['epochs']} of {distilled.facts['epochs']} epochs"
    level = [row["trial"] for row in rows if row.get("level")]  # as before
    cannot = f", the trials' own choice: validation cannot tell {_listed(level)} apart" if level else ""
    on = _went_on(distilled, rows)
    return [
        f"Finalists by {name} on validation after {at}: {', '.join(came)}. {on}{cannot if on.startswith('The') else ''}."
    ]


def _went_on(distilled: Artifact, rows: Sequence[Mapping[str, Any]]) -> str:
    """Which of the finalists, the best first, are through: the first ones, unless these failed after the rung."""
    through = [row["trial"] for row in rows if row["name"] in distilled.facts["runs"]]
    if not through:
        return f"None came through, and trial {distilled.facts['trial']} took their place"
    if through != [row["trial"] for row in rows[: len(through)]]:
        return f"Trial{'s' if len(through) > 1 else ''} {_listed(through)} came through"
    return "The first one went on" if len(through) == 1 else f"The first {len(through)} went on"


def _listed(numbers: Sequence[int]) -> str:
    """`5`, `5 and 3`, `5, 3 and 0`."""
    *others, last = map(str, numbers)
    return f"{', '.join(others)} and {last}" if others else last


def _leftover(distilled: Artifact) -> list[str]:
    """That the winner trained for longer than the study's text says."""
    epochs, more = distilled.facts["epochs"], distilled.facts["leftover"]
    text = f"The student trained for {epochs} epochs: {epochs - more}, and {more} that the trials left."
    return [text] if more else []


def _best_is_no_find(materials: Materials, inputs: Mapping[str, Artifact]) -> list[str]:
    """Where what ships is a trial that anybody would have begun with: so. Of one network nothing could be found."""
    searched, refined, distilled = inputs["search"], inputs["refine"], inputs["distill"]
    number, first = distilled.facts["trial"], refined.facts["first"]
    if number >= len(first) or not (trivial := [each for each in first[number] if not each.startswith(BEST_SCORED)]):
        return []
    if all(searched.facts["roles"][role]["candidates"] < 2 for role in materials.ships):
        return []
    found = "chose nothing else"
    if _is_best(materials, read_json(refined.path / "trials.json"), distilled):
        name = measure(materials.metrics[materials.objective])["title"] or materials.objective
        found = f"found nothing of {'clearly ' if distilled.facts.get('level') else ''}better {name}"
    return [f"The student is that of trial {number}, the network of {' and '.join(trivial)}: the search {found}."]


def _is_best(materials: Materials, trials: Iterable[Mapping[str, Any]], distilled: Artifact) -> bool:
    """Whether one metric alone was looked for, and no trial has more of it than the student's; of those that validation cannot
    tell apart, none that it can."""
    name = materials.objective
    if list(materials.objectives) != [name] or not parsed(materials.study.config.distill.pick).goes_by(name):
        return False
    sign = 1 if materials.objectives[name] == "max" else -1
    came = {row["number"]: sign * row["objectives"][name] for row in trials if name in row["objectives"]}
    within = distilled.facts["error"] if distilled.facts.get("level") else 0.0  # a folder of before has none
    own = came.get(distilled.facts["trial"])  # a trial that was stopped has none
    return own is not None and max(came.values()) <= own + within


def _not_smaller(materials: Materials, inputs: Mapping[str, Artifact]) -> list[str]:
    """That the student is no smaller than its teachers, where the study asks for nothing smaller."""
    known = {name: each["params"] for name, each in inputs["prepare"].facts["teachers"].items() if each["params"]}
    own = sum(each["params"] for each in inputs["compress"].facts.get("costs", {}).values())
    if not known or own < max(known.values()) or materials.study.config.constraints.model_dump(exclude_none=True):
        return []
    largest = max(known, key=lambda name: known[name])
    return [
        f"Teacher '{largest}' has {known[largest]:,} parameters, the student {own:,}: nothing in `constraints` keeps it small."
    ]


def not_asked(min_agreement: Mapping[str, float], exports: Iterable[Mapping[str, Any]]) -> list[str]:
    """What is said of files whose answers decide nothing to agree on, where the study states a bound for their format."""
    files = [file_label(row) for row in exports if row["format"] in min_agreement and row["top1_agreement"] is None]
    if not files:
        return []
    why = "no output is of kind 'logits', 'scores' or 'class', so that there is nothing to agree on"
    return [f"export.min_agreement was not asked of {', '.join(files)}: {why}."]
