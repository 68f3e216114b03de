"""Which trainings at full length go on after a quarter of it, and in which order those stand that end: by validation.

Where `distill.pick` asks for the best on validation more trials begin than there are winners, and those go on that are the best at
RUNG, or where it cannot tell them from the best one come first by their trials: what the few epochs of a trial misjudge is seen
after more of them, of which the last half counts: its median, and how sure that is. Few epochs also rank recipes by how fast they
begin; so where no other trial was near, what was known before any training begins, too.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdsearch.search.pick import ordered, parsed
from kdsearch.stages.choice import Choice, Ranked
from kdsearch.stages.trial_facts import deciding
from kdsearch.stages.winners import failed_in, with_failed
from kdsearch.store.files import read_json, write_json
from kdsearch.study.summary import RUNG
from kdsearch.training.materials import Materials
from kdsearch.training.request import Outcome, Request
from kdsearch.training.tools import Tools

MEDIAN = math.sqrt(math.pi / 2)  # the standard error of a median is so many times a mean's, of normal numbers


def beginning(materials: Materials, choice: Choice) -> list[Ranked]:
    """Those that begin at full length: the winners, and where validation alone decides as many as there are finalists."""
    section = materials.study.config.distill
    by_validation = materials.objective in materials.objectives and parsed(section.pick).goes_by(materials.objective)
    most = section.finalists if by_validation and section.epochs > 1 else section.winners
    return finalists(choice, section.winners, most)


def finalists(choice: Choice, winners: int, most: int) -> list[Ranked]:
    """Those that begin at full length: the first `winners`, and up to `most` of those that are near the best one.

    First the first trial of each other family, though a rung stopped it; then that of each other network, then others; last
    the choice's starts.
    """
    found, others = choice.ranked[:winners], [each for each in choice.ranked[winners:] if choice.is_near(each)]
    for name, these in (("family", [*others, *choice.stopped]), ("specs", others)):
        for each in these:
            if len(found) < most and all(each.trial[name] != other.trial[name] for other in found):
                found.append(each)
    rest = [each for each in (*others, *choice.starts) if all(each is not other for other in found)]
    return [*found, *rest][: max(most, winners)]


def at_rung(
    materials: Materials,
    begun: Mapping[str, Request],
    ranked: Mapping[str, Ranked],
    trained: Callable[[Mapping[str, Request]], dict[str, Outcome | str]],
    error: Callable[[float], float],
    tools: Tools,
    work: Path,
    late: Sequence[Ranked] = (),
) -> list[dict[str, Any]]:
    """What the finalists came to at RUNG, without those that failed, which are said; none where all did. Kept in a file, as they go
    on from there.

    The best one is first, or the first trial of those of its family that it is not better than by more than a standard error: a
    quarter of a schedule is hard on high learning rates, so that a small difference there says nothing. But one of `late`, whose
    trials were far behind or stopped, gains where it is ahead: it is first if it is the best one, by however little, and else
    has no say.
    """
    file, winners = work / "rung.json", materials.study.config.distill.winners
    before = tools.progress.done
    if not file.exists():
        had = failed_in(work)
        known = {each["name"] for each in had}
        outcomes = trained({name: replace(each, until=RUNG) for name, each in begun.items() if name not in known})
        before = tools.progress.done
        for each in with_failed(work, had, ranked, outcomes)[len(had) :]:
            tools.progress.say(f"distill: trial {each['trial']} failed at full length ({each['error']})")
        steady = {name: each if isinstance(each, str) else _steady(each) for name, each in outcomes.items()}
        order, level = _level_first(materials, ranked, steady, error, late)
        rows = [
            {
                "name": name,
                "trial": ranked[name].trial["number"],
                "score": outcome.score,
                "level": name in level and len(level) > 1,
                "epochs": round(outcome.share * begun[name].epochs),
                "history": outcome.history,
            }
            for name in order
            if isinstance(outcome := steady[name], Outcome)
        ]
        if not rows:
            return []
        write_json(file, rows)
    done = len(begun) * RUNG + (len(begun) - winners) * (1 - RUNG)  # those that do not go on are through
    tools.progress.had(done - before)
    tools.progress.at(done)
    found: list[dict[str, Any]] = read_json(file)
    return found


def _steady(outcome: Outcome) -> Outcome:
    """With the median of the last half of its epochs for its score: at a high learning rate one epoch says little."""
    scores = _last_half(outcome)
    return replace(outcome, score=statistics.median(scores)) if scores else outcome


def _scatter(one: Outcome, other: Outcome) -> float:
    """Standard error of the difference of their medians, by how it varies over these epochs: what both still learn cancels."""
    apart = [a - b for a, b in zip(_last_half(one), _last_half(other), strict=False)]
    return MEDIAN * statistics.stdev(apart) / math.sqrt(len(apart)) if len(apart) > 1 else 0.0


def _last_half(outcome: Outcome) -> list[float]:
    scores = [row["score"] for row in outcome.history if row.get("score") is not None]
    return scores[len(scores) // 2 :]


def order_of(
    materials: Materials,
    ranked: Mapping[str, Ranked],
    outcomes: Mapping[str, Outcome | str],
    others: Sequence[Ranked] = (),
) -> list[str]:
    """Of several trainings, which did not fail, as `distill.pick` orders them by their validation; by validation alone
    where it is `best`.

    The knee is that of the front of all: `others` are the feasible trials that were not trained at full length, as they came to.
    Of two alone both ends are as near to it.

    Conditions that none meets any more count for nothing, and what does not meet them comes last. Equals keep their order; so do
    all where a procedure gives no score.
    """
    whole = [name for name, each in outcomes.items() if isinstance(each, Outcome)]
    scored = {
        name: {**ranked[name].figures, **each.measured(materials.objective)}
        for name in whole
        if isinstance(each := outcomes[name], Outcome) and each.score is not None
    }
    pick, direction = parsed(materials.study.config.distill.pick), materials.metrics[materials.objective].direction
    if pick.way == "best":
        pick = replace(pick, way=direction, name=materials.objective)
    meets = [name for name, each in scored.items() if all(condition.holds(each) for condition in pick.conditions)]
    first: list[str] = []
    for names in filter(None, (meets, [name for name in scored if name not in meets])):
        beside = others if pick.way == "knee" else ()  # alone it goes by the others, too
        figures = [*(scored[name] for name in names), *(each.figures for each in beside)]
        order = ordered(replace(pick, conditions=()), figures, materials.objectives, deciding(materials))
        first += [names[i] for i in order if i < len(names)]
    return first + [name for name in whole if name not in scored]


def _level_first(
    materials: Materials,
    ranked: Mapping[str, Ranked],
    outcomes: Mapping[str, Outcome | str],
    error: Callable[[float], float],
    late: Sequence[Ranked],
) -> tuple[list[str], list[str]]:
    """As `order_of`, but first, in the order of their trials, those that validation cannot tell from the best one; and these."""
    order = order_of(materials, ranked, outcomes)
    known = {name: each for name in order if isinstance(each := outcomes[name], Outcome)}
    scores = {name: each.score for name, each in known.items() if each.score is not None}
    behind = {name for name, each in ranked.items() if any(each is other for other in late)}
    if not scores or order[0] in behind:
        return order, []
    best, conditions = scores[order[0]], parsed(materials.study.config.distill.pick).conditions

    def held(name: str) -> list[bool]:
        figures = {**ranked[name].figures, **known[name].measured(materials.objective)}
        return [each.holds(figures) for each in conditions]

    within = error(best)
    family = ranked[order[0]].trial["family"]
    level = [
        name
        for name in ranked
        if name in scores
        and name not in behind
        and ranked[name].trial["family"] == family
        and abs(scores[name] - best) <= math.hypot(within, _scatter(known[name], known[order[0]]))
        and held(name) == held(order[0])
    ]
    return [*level, *(name for name in order if name not in level)], level
