"""Which of the trials wins: by `distill.pick`, and where validation cannot tell the best ones apart by what was known before."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdsearch.report.stats import NORMAL_95
from kdsearch.search.pick import ordered, parsed
from kdsearch.stages.quality import EQUALLY_GOOD, SHARE
from kdsearch.stages.trial_facts import curve_of, deciding
from kdsearch.store.artifacts import Artifact
from kdsearch.store.files import read_json
from kdsearch.study.rules import COSTS
from kdsearch.training.materials import Materials

NEAR = 2.0


@dataclass(frozen=True)
class Ranked:
    """A feasible trial: what `distill` trains of it, its objectives and costs."""

    trial: Mapping[str, Any]
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Choice:
    """The feasible trials, the winner first.

    Args:
        level: numbers of those that validation cannot tell from the best one, that one among them; none where it is the only one,
            or where the pick is not `best`, of one objective.
        error: the standard error that they lie within.
        near: numbers of those within NEAR standard errors of the best one, which more epochs may show to be better; None: of all.
        stopped: trials that were stopped at a rung where they were as near to the best one there.
        starts: those of `refine.first` and of the best one's family that are not near, or that a rung stopped, however near they
            were there; as tried.
    """

    ranked: list[Ranked]
    level: list[int] = field(default_factory=list)
    error: float = 0.0
    near: list[int] | None = None
    stopped: list[Ranked] = field(default_factory=list)
    starts: list[Ranked] = field(default_factory=list)

    def is_near(self, ranked: Ranked) -> bool:
        return self.near is None or ranked.trial["number"] in self.near


def chosen(materials: Materials, prepared: Artifact, refined: Artifact) -> Choice:
    """The feasible trials in the order of `distill.pick`.

    By one objective the first one is, of the trials within a standard error of the best one and of its family, that of the
    largest network, of several the best-scored one (`search.proxy`), and of that network's trials one of `refine.first`, whose
    recipe is the best-scored or the plain one: where short trainings say nothing, what was known without training does. Then the
    best one, and so on.
    """
    pick = parsed(materials.study.config.distill.pick)
    rows = {row["number"]: row for row in read_json(refined.path / "trials.json")}
    trials = [Ranked(each, _figures(rows[each["number"]])) for each in refined.facts["ranked"]]
    order = ordered(pick, [each.figures for each in trials], materials.objectives, deciding(materials))
    ranked = [trials[i] for i in order]
    name = materials.objective
    if list(materials.objectives) != [name] or not pick.goes_by(name):  # several objectives, or one that is a cost
        return Choice(ranked)
    best = ranked[0].figures[name]
    error = standard_error(materials, prepared, best)
    near = [each.trial["number"] for each in ranked if abs(each.figures[name] - best) <= NEAR * error]
    halted = [Ranked(each, _figures(rows[each["number"]])) for each in refined.facts["stopped"]]
    halted = [
        each for each in halted if all(one.holds(each.figures) for one in pick.conditions if one.name in each.figures)
    ]
    stopped = _near_at_rung(materials, prepared, rows, halted)
    family = ranked[0].trial["family"]  # scores say little across families
    first = [number for number, said in enumerate(refined.facts.get("first", ())) if said]
    known = {each.trial["number"]: each for each in (*ranked, *halted) if each.trial["family"] == family}
    starts = [known[number] for number in first if number in known and number not in near]
    if pick.way != "best":
        return Choice(ranked, error=error, near=near, stopped=stopped, starts=starts)
    level = [each for each in ranked if abs(each.figures[name] - best) <= error]
    winner = max(
        (each for each in level if each.trial["family"] == family),
        key=lambda each: (*_prior(each), each.trial["number"] in first),
    )  # among equals the better trial
    numbers = [each.trial["number"] for each in level] if len(level) > 1 else []
    return Choice([winner, *(each for each in ranked if each is not winner)], numbers, error, near, stopped, starts)


def _near_at_rung(
    materials: Materials, prepared: Artifact, rows: Mapping[int, Mapping[str, Any]], halted: Sequence[Ranked]
) -> list[Ranked]:
    """Those within NEAR standard errors of the best one at the rung that stopped them, the nearest first."""
    curves = {number: curve_of(materials, row, materials.objective) for number, row in rows.items()}
    bests: dict[float, float] = {}
    for share, loss in (point for curve in curves.values() for point in curve if math.isfinite(point[1])):
        bests[share] = min(loss, bests.get(share, math.inf))
    found = []
    for each in halted:
        number = each.trial["number"]
        share, loss = curves[number][-1]
        best = -bests[share] if materials.objectives[materials.objective] == "max" else bests[share]
        behind = (loss - bests[share]) / standard_error(materials, prepared, best) if math.isfinite(loss) else math.inf
        if behind <= NEAR:
            found.append((behind, number, each))
    return [each for _, _, each in sorted(found, key=lambda each: each[:2])]


def standard_error(materials: Materials, prepared: Artifact, value: float) -> float:
    """Of the difference between two students' objective on the validation split, in its own unit.

    As if they erred independently. Of a proportion by its value and how many items are judged; else by the teacher's interval,
    which is wider for students where these are judged on fewer; of a share without one as of a proportion, which no mean of shares
    varies more than; where nothing is known, a difference that decides nothing. Never 0.
    """
    metric, told = materials.metrics[materials.objective], prepared.facts["teachers"]
    answers = (told[name] for name in materials.study.teachers if name in told)
    known = next((each for each in answers if each.get("validation", {}).get(materials.objective)), None)
    quality = known["validation"][materials.objective] if known else {}
    n = (known.get("judged") or quality["n"]) if known else _labelled(prepared)  # a folder of before has no `judged`
    low, high = quality.get("interval") or (0.0, 0.0)
    is_share = metric.unit == SHARE and n and 0 <= value <= 1
    if is_share and (metric.proportion or low == high):
        within = min(max(value, 0.5 / n), 1 - 0.5 / n)  # all right of a few is no certainty
        return math.sqrt(2 * within * (1 - within) / n)
    if low < high:
        wider = math.sqrt(quality["n"] / n) if n else 1.0
        return float(math.sqrt(2) * wider * (high - low) / (2 * NORMAL_95))
    return EQUALLY_GOOD if metric.unit == SHARE else EQUALLY_GOOD * (abs(value) or 1.0)


def _labelled(prepared: Artifact) -> int:
    """How many samples of the validation split students are judged on."""
    counts = prepared.facts["data"]["counts"].get("val", {})
    return sum(n for name, n in counts.items() if name != "unlabeled")


def _prior(ranked: Ranked) -> tuple[float, float]:
    """What was known of its network before any training: its size, as bigger ones are mostly better, and of equals the score."""
    score = ranked.trial.get("score")  # a folder of before has none
    return ranked.figures["params"], -math.inf if score is None else score


def _figures(row: Mapping[str, Any]) -> dict[str, float]:
    """What can be picked by, of a trial's row."""
    costs = {name: row.get({"onnx_bytes": "bytes"}.get(name, name)) for name in COSTS}
    return {**{name: value for name, value in costs.items() if value is not None}, **row["objectives"]}
