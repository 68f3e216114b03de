"""Stage `distill`: the winners at full length, beside them the controls and the students that the choice is judged by.

Where `distill.pick` asks for the best on validation more trials begin than there are winners, and those go on that are the best at
RUNG: what the few epochs of a trial misjudge, or cannot tell apart, is seen after more of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdsearch.errors import StudyError, TrialError, no_share
from kdsearch.search.pick import PATH, ordered, parsed
from kdsearch.stages.choice import Choice, Ranked, chosen, finalists
from kdsearch.stages.trial_facts import deciding
from kdsearch.store.artifacts import Artifact
from kdsearch.store.files import read_json, read_lines, write_json
from kdsearch.store.hashing import stream
from kdsearch.study.rules import COSTS
from kdsearch.study.summary import RUNG, left_out
from kdsearch.training.finished import keep_finished
from kdsearch.training.keys import TRAINING
from kdsearch.training.materials import Materials
from kdsearch.training.opened import open_teachers
from kdsearch.training.request import CONTROLS, Kind, Outcome, Request
from kdsearch.training.tools import Tools
from kdsearch.training.trainings import run_trainings

NAME = "distill"
NEEDS = ("prepare", "search", "refine")
READS = (*TRAINING, "distill")


def make(materials: Materials, inputs: Mapping[str, Artifact], tools: Tools, work: Path, out: Path) -> dict[str, Any]:
    section = materials.study.config.distill
    teachers = open_teachers(materials, inputs["prepare"])
    choice = chosen(materials, inputs["prepare"], inputs["refine"])
    ranked = {f"winner-{i}": each for i, each in enumerate(_beginning(materials, choice))}
    begun = {
        name: Request(name, "recipe", each.trial["specs"], each.trial["values"], section.epochs)
        for name, each in ranked.items()
    }
    beside = _beside(materials, inputs, next(iter(begun.values())))
    tools.progress.begin(NAME, len(begun) + len(beside))

    def trained(requests: Mapping[str, Request], since: Mapping[str, float] | None = None) -> dict[str, Outcome | str]:
        asked = list(requests.values())
        return run_trainings(materials, asked, work, inputs["prepare"], teachers, tools, since)

    rung = _at_rung(materials, begun, ranked, trained, tools, work) if len(begun) > section.winners else []
    winners = {row["name"]: begun[row["name"]] for row in rung[: section.winners]} or begun
    since = dict.fromkeys(winners, RUNG) if rung else None
    dropped = sum(row["epochs"] for row in rung[section.winners :])
    best = next(iter(winners))
    beside = _beside(materials, inputs, winners[best], dropped)
    outcomes = trained(winners if len(winners) > 1 else {**winners, **beside}, since)
    failed = [outcome for name in winners if isinstance(outcome := outcomes[name], str)]
    if len(failed) == len(winners):
        raise TrialError(f"distilling the winner failed: {failed[0]}")
    if len(winners) > 1:  # the controls are those of the one that ships, so it has to be known first
        best = _order(materials, ranked, {name: outcomes[name] for name in winners})[0]
        beside = _beside(materials, inputs, winners[best], dropped)
        outcomes |= trained(beside)
    requests = {**winners, **beside}
    runs: dict[str, Any] = {}
    for name, request in requests.items():
        outcome = outcomes[name]
        if isinstance(outcome, str):
            runs[name] = {"error": outcome, "request": request.as_json(), "history": [], "score": None}
            continue
        keep_finished(work / name, out / name)
        runs[name] = {
            "request": request.as_json(),
            "history": outcome.history,
            "score": outcome.score,
            "scales": dict(outcome.scales),
            "notes": list(outcome.notes),
            "error": "",
        }
    level = {"level": choice.level, "error": choice.error, "rung": rung}
    trial = ranked[best].trial["number"]
    return {"runs": runs, "winner": best, "trial": trial, "epochs": section.epochs, **level}


def _beginning(materials: Materials, choice: Choice) -> list[Ranked]:
    """Those that begin at full length: the winners, and where validation alone decides as many as there are finalists."""
    section = materials.study.config.distill
    by_validation = materials.objective in materials.objectives and parsed(section.pick).goes_by(materials.objective)
    most = section.finalists if by_validation and section.epochs > 1 else section.winners
    return finalists(choice, section.winners, most)


def _at_rung(
    materials: Materials,
    begun: Mapping[str, Request],
    ranked: Mapping[str, Ranked],
    trained: Callable[[Mapping[str, Request]], dict[str, Outcome | str]],
    tools: Tools,
    work: Path,
) -> list[dict[str, Any]]:
    """What the finalists came to at RUNG, the best first; without those that failed. Kept in a file, as they go on from there."""
    file, winners = work / "rung.json", materials.study.config.distill.winners
    before = tools.progress.done
    if not file.exists():
        outcomes = trained({name: replace(each, until=RUNG) for name, each in begun.items()})
        before = tools.progress.done
        rows = [
            {
                "name": name,
                "trial": ranked[name].trial["number"],
                "score": outcome.score,
                "epochs": round(outcome.share * begun[name].epochs),
                "history": outcome.history,
            }
            for name in _order(materials, ranked, outcomes)
            if isinstance(outcome := outcomes[name], Outcome)
        ]
        if not rows:
            raise TrialError(f"distilling the winner failed: {next(iter(outcomes.values()))}")
        write_json(file, rows)
    done = len(begun) * RUNG + (len(begun) - winners) * (1 - RUNG)  # those that do not go on are through
    tools.progress.had(done - before)
    tools.progress.at(done)
    found: list[dict[str, Any]] = read_json(file)
    return found


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


def _order(materials: Materials, ranked: Mapping[str, Ranked], outcomes: Mapping[str, Outcome | str]) -> list[str]:
    """Of several trainings, which did not fail, as `distill.pick` orders them by their last-epoch validation; by validation alone
    where it is `best` or `largest`.

    Conditions that none meets any more count for nothing, and what does not meet them comes last. Equals keep their order; so do
    all where a procedure gives no score.
    """
    whole = [name for name, each in outcomes.items() if isinstance(each, Outcome)]
    scored = {
        name: {**ranked[name].figures, materials.objective: each.score}
        for name in whole
        if isinstance(each := outcomes[name], Outcome) and each.score is not None
    }
    pick, direction = parsed(materials.study.config.distill.pick), materials.metrics[materials.objective].direction
    if pick.way in ("best", "largest"):
        pick = replace(pick, way=direction, name=materials.objective)
    meets = [name for name, each in scored.items() if all(condition.holds(each) for condition in pick.conditions)]
    first: list[str] = []
    for names in filter(None, (meets, [name for name in scored if name not in meets])):
        figures = [scored[name] for name in names]
        order = ordered(replace(pick, conditions=()), figures, materials.objectives, deciding(materials))
        first += [names[i] for i in order]
    return first + [name for name in whole if name not in scored]


def _beside(
    materials: Materials, inputs: Mapping[str, Artifact], winner: Request, dropped: int = 0
) -> dict[str, Request]:
    """The winner's controls and the students it is compared with; a study of several students has none.

    dropped: epochs of the finalists that did not go on.
    """
    section = materials.study.config.distill
    if left_out(materials.study):
        return {}
    asked: dict[str, Request] = {
        control: replace(winner, name=control, kind=control) for control in controls_of(materials)
    }
    if "no_search" in section.controls:
        asked["no_search"] = _no_search(materials, inputs, winner, dropped)
    if section.compare is not None:
        role = next(iter(winner.specs))
        short = replace(winner, epochs=section.compare.epochs)
        asked["compare-winner"] = replace(short, name="compare-winner")
        for name, spec in _others(materials, inputs, role).items():
            asked[name] = replace(short, name=name, specs={role: spec})
    return asked


def _no_search(materials: Materials, inputs: Mapping[str, Artifact], winner: Request, dropped: int) -> Request:
    """What the study's epochs give without its search: the largest feasible network and the plain recipe, for all of them."""
    role = next(iter(winner.specs))
    spec = inputs["search"].facts["roles"][role]["largest"]["params"]["spec"]
    epochs = inputs["refine"].facts["epochs"] + materials.study.config.distill.winners * winner.epochs + dropped
    return replace(winner, name="no_search", specs={role: spec}, values=materials.recipe.plain(), epochs=epochs)


def controls_of(materials: Materials) -> tuple[Kind, ...]:
    """The winner's controls that are trained: where the baseline sees every label, the control with every label is the baseline."""
    asked = () if left_out(materials.study) else materials.study.config.distill.controls
    same = "baseline" in asked and not materials.given.hides_targets
    return tuple(control for control in CONTROLS if control in asked and not (same and control == "all_labels"))


def _others(materials: Materials, inputs: Mapping[str, Artifact], role: str) -> dict[str, Any]:
    """The largest feasible candidate, and some drawn at random from those that were scored."""
    compare = materials.study.config.distill.compare
    assert compare is not None
    rows = read_lines(inputs["search"].path / f"candidates-{role}.jsonl")
    found = {}
    if compare.largest:
        found["compare-largest"] = inputs["search"].facts["roles"][role]["largest"]["params"]["spec"]
    import torch

    order = torch.randperm(len(rows), generator=stream(materials.seed, "compare")).tolist()
    for i, index in enumerate(order[: compare.random]):
        found[f"compare-random-{i}"] = rows[index]["spec"]
    return found
