"""Stage `distill`: the winners at full length, beside them the controls and the students that the choice is judged by.

More may begin than win: see `finalists.py`. Where every one that began fails, the next one takes their place: `winners.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from kdsearch.errors import RefusedError, StudyError, no_share
from kdsearch.search.pick import PATH, parsed
from kdsearch.stages.choice import chosen, standard_error
from kdsearch.stages.costs import needs_file, violations
from kdsearch.stages.file_costs import file_costs
from kdsearch.stages.finalists import at_rung, beginning, order_of
from kdsearch.stages.keeping import UNBUILT
from kdsearch.stages.winners import through
from kdsearch.store.artifacts import Artifact
from kdsearch.store.files import read_lines
from kdsearch.store.hashing import stream
from kdsearch.study.rules import COSTS
from kdsearch.study.summary import RUNG, final_epochs, left_out
from kdsearch.training.finished import keep_finished
from kdsearch.training.keys import TRAINING, Where
from kdsearch.training.materials import Materials
from kdsearch.training.opened import open_teachers
from kdsearch.training.request import CONTROLS, Kind, Outcome, Request
from kdsearch.training.tools import Tools
from kdsearch.training.trainings import run_trainings


def measures_files(materials: Materials) -> bool:
    """Whether files of networks that are drawn to compare with are measured."""
    compare = materials.study.config.distill.compare
    return compare is not None and compare.random > 0 and needs_file(materials)


NAME = "distill"
NEEDS = ("prepare", "search", "refine")
READS = (
    *(*TRAINING, "distill", "refine.trials", "refine.epochs"),
    *(
        Where(measures_files, path)
        for path in ("constraints", "cost_objectives", "export.exporter", "compress.quantize")
    ),
)
DRAWS = 12  # files measured for each network that is drawn to compare with
RULE = 14  # by which the winner is chosen; one of another rule is made anew


def further(materials: Materials) -> dict[str, Any]:
    """What its key holds beside what it reads."""
    return {"rule": RULE}


def make(materials: Materials, inputs: Mapping[str, Artifact], tools: Tools, work: Path, out: Path) -> dict[str, Any]:
    section = materials.study.config.distill
    teachers = open_teachers(materials, inputs["prepare"])
    choice = chosen(materials, inputs["prepare"], inputs["refine"])
    ranked = {f"winner-{i}": each for i, each in enumerate(beginning(materials, choice))}
    n = min(section.winners, len(ranked))
    refined = inputs["refine"].facts
    epochs = final_epochs(materials.study, refined["trials"], refined["epochs"], n, len(ranked) - n)
    begun = {
        name: Request(name, "recipe", each.trial["specs"], each.trial["values"], epochs)
        for name, each in ranked.items()
    }
    beside = _beside(materials, inputs, work, next(iter(begun.values())), n)
    tools.progress.begin(NAME, len(begun) + len(beside))

    def trained(requests: Mapping[str, Request], since: Mapping[str, float] | None = None) -> dict[str, Outcome | str]:
        asked = list(requests.values())
        return run_trainings(materials, asked, work, inputs["prepare"], teachers, tools, since)

    error = partial(standard_error, materials, inputs["prepare"])
    rung, winners = [], dict(begun)
    if len(begun) > section.winners:
        rung = at_rung(materials, begun, ranked, trained, error, tools, work, choice.starts)
        winners = {row["name"]: begun[row["name"]] for row in rung[: section.winners]}
    since = {row["name"]: RUNG for row in rung}
    dropped = sum(row["epochs"] for row in rung[section.winners :])
    spare = {row["name"]: begun[row["name"]] for row in rung[section.winners :]}
    for each in islice((each for each in choice.ranked if not any(each is other for other in ranked.values())), 1):
        name = f"winner-{len(ranked)}"
        ranked[name] = each
        spare[name] = replace(begun["winner-0"], name=name, specs=each.trial["specs"], values=each.trial["values"])
    if winners:
        beside = _beside(materials, inputs, work, next(iter(winners.values())), n, dropped)
    train = partial(trained, since=since)
    winners, outcomes, failed = through(winners, spare, beside, ranked, train, tools, work)
    others = [each for each in choice.ranked if all(each is not ranked[name] for name in winners)]
    best = order_of(materials, ranked, {name: outcomes[name] for name in winners}, others)[0]
    if beside.keys() - outcomes.keys():
        beside = _beside(materials, inputs, work, winners[best], n, dropped)
        outcomes |= trained(beside)
    runs = {}
    for name, request in {**winners, **beside}.items():
        runs[name] = _row(request, outcomes[name])
        if not runs[name]["error"]:
            keep_finished(work / name, out / name)
    length = {"epochs": epochs, "leftover": epochs - section.epochs}
    level = {"level": choice.level, "error": choice.error, "rung": rung, "failed": failed}
    trial = ranked[best].trial["number"]
    return {"runs": runs, "winner": best, "trial": trial, **length, **level}


def _row(request: Request, outcome: Outcome | str) -> dict[str, Any]:
    """What the facts hold of one training."""
    if isinstance(outcome, str):
        return {"error": outcome, "request": request.as_json(), "history": [], "score": None}
    return {
        "request": request.as_json(),
        "history": outcome.history,
        "score": outcome.score,
        "scales": dict(outcome.scales),
        "notes": list(outcome.notes),
        "error": "",
    }


def check(materials: Materials) -> None:
    """Raise StudyError for a `distill.pick` that is none, or speaks of other figures than objectives and costs of this study."""
    limits = materials.study.config.constraints
    costs = [
        name for name in COSTS if name in ("params", "macs", *materials.objectives) or getattr(limits, name) is not None
    ]
    try:
        pick = parsed(materials.study.config.distill.pick)
        pick.check({*materials.objectives, *costs}, COSTS)
        for each in pick.conditions:
            if each.name in materials.metrics and (fix := no_share(materials.metrics[each.name].unit, each.bound)):
                raise StudyError(f"got '{each}'", path=PATH, fix=fix[:-1] + ", or with a %.")
    except StudyError as error:
        raise materials.study.place(error) from None


def _beside(
    materials: Materials, inputs: Mapping[str, Artifact], work: Path, winner: Request, n: int, dropped: int = 0
) -> dict[str, Request]:
    """The winner's controls and the students it is compared with; a study of several students has none.

    n: winners that are trained. dropped: epochs of the finalists that did not go on.
    """
    section = materials.study.config.distill
    if left_out(materials.study):
        return {}
    asked: dict[str, Request] = {
        control: replace(winner, name=control, kind=control) for control in controls_of(materials)
    }
    if "no_search" in section.controls:
        asked["no_search"] = _no_search(materials, inputs, winner, n, dropped)
    if section.compare is not None:
        role = next(iter(winner.specs))
        short = replace(winner, epochs=section.compare.epochs)
        asked["compare-winner"] = replace(short, name="compare-winner")
        for name, spec in _others(materials, inputs, role, work).items():
            asked[name] = replace(short, name=name, specs={role: spec})
    return asked


def _no_search(materials: Materials, inputs: Mapping[str, Artifact], winner: Request, n: int, dropped: int) -> Request:
    """What the study's epochs give without its search: the largest feasible candidate and the plain recipe, for all of them."""
    role = next(iter(winner.specs))
    spec = inputs["search"].facts["roles"][role]["largest"]["params"]["spec"]
    epochs = inputs["refine"].facts["epochs"] + n * winner.epochs + dropped
    return replace(winner, name="no_search", specs={role: spec}, values=materials.recipe.plain(), epochs=epochs)


def controls_of(materials: Materials) -> tuple[Kind, ...]:
    """The winner's controls that are trained: where the baseline sees every label, the control with every label is the baseline."""
    asked = () if left_out(materials.study) else materials.study.config.distill.controls
    same = "baseline" in asked and not materials.given.hides_targets
    return tuple(control for control in CONTROLS if control in asked and not (same and control == "all_labels"))


def _others(materials: Materials, inputs: Mapping[str, Artifact], role: str, work: Path) -> dict[str, Any]:
    """The largest feasible candidate, and some drawn at random from those that were scored and keep the limits.

    Where limits are of files, those drawn are measured, `DRAWS` for each at most: they may be fewer than the study asks for.
    """
    compare = materials.study.config.distill.compare
    assert compare is not None
    rows = read_lines(inputs["search"].path / f"candidates-{role}.jsonl")
    rows = [each for each in rows if not UNBUILT & each["errors"].keys()] or rows
    found = {}
    if compare.largest:
        found["compare-largest"] = inputs["search"].facts["roles"][role]["largest"]["params"]["spec"]
    import torch

    order = torch.randperm(len(rows), generator=stream(materials.seed, "compare")).tolist()
    if not compare.random:
        return found
    is_measured = "onnx_bytes" in inputs["search"].facts["roles"][role]["kept"][0]["costs"]
    drawn = (rows[index] for index in order[: (DRAWS if is_measured else 1) * compare.random])
    for i, row in enumerate(
        islice((each for each in drawn if not is_measured or _keeps(materials, role, each, work)), compare.random)
    ):
        found[f"compare-random-{i}"] = row["spec"]
    return found


def _keeps(materials: Materials, role: str, row: Mapping[str, Any], work: Path) -> bool:
    """Whether a candidate has a file, and that keeps the limits; those of params and MACs hold for all that were scored."""
    try:
        costs = file_costs(materials, role, row["spec"], work)
    except RefusedError:
        return False
    return all(over <= 0 for over in violations(materials, costs).values())
