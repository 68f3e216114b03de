"""What a checked study would do, in numbers that its text alone gives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdsearch.search.pick import parsed
from kdsearch.study.check import student_space
from kdsearch.study.names import proxies
from kdsearch.study.recipe import RecipeSpace
from kdsearch.study.rules import COSTS, bare, format_of

if TYPE_CHECKING:
    from kdsearch.host import Host
    from kdsearch.kinds import SearchSpace
    from kdsearch.study.study import Study


RUNG = 1 / 4  # share of the epochs at which the finalists of `distill` are compared
LEFT_OUT = "no controls: they are plain trainings of one student, and this procedure trains {roles}"


def left_out(study: Study) -> str:
    """Why the study has no controls, nor students that it is compared with, whatever it asks for; "" where it can have them."""
    roles = tuple(study.students)
    return "" if roles == ("student",) else LEFT_OUT.format(roles=", ".join(roles))


def summary(study: Study, host: Host, controls: Sequence[str] | None = None) -> dict[str, Any]:
    """JSON values: the study's name, what is searched, and how many trainings of how many epochs there are.

    controls: see `trainings`.
    """
    config = study.config
    spaces = {role: student_space(study, host, role) for role in study.students}
    recipe = RecipeSpace.from_study(study, host)
    return {
        "study": config.name,
        "seed": config.seed,
        "data": config.data.use,
        "teachers": {name: each.use for name, each in study.teachers.items()},
        "students": {
            role: {"space": study.students[role].space, "dimensions": len(each.dims), "size": each.size()}
            for role, each in spaces.items()
        },
        "recipe": {
            "distillers": [each.name for each in recipe.distillers],
            "searched": [dim.path for dim in recipe.dims],
        },
        "candidates": sum(scored(config.search.candidates, each.size()) for each in spaces.values()),
        "proxies": [use.use for use, _ in proxies(study)],
        "trainings": trainings(study, controls, different(study, spaces, recipe)),
        "formats": config.export.formats,
    }


def scored(candidates: int, size: int | None) -> int:
    """How many of so many candidates a space has: a finite one may hold fewer."""
    return candidates if size is None else min(candidates, size)


def different(study: Study, spaces: Mapping[str, SearchSpace[Any]], recipe: RecipeSpace) -> int | None:
    """How many different trials there are at most, an architecture a role and a recipe each; None = no end of them."""
    networks = math.prod(scored(study.config.search.candidates, space.size()) for space in spaces.values())
    sizes = [dim.range.size for dim in recipe.dims]
    if None in sizes:
        return None
    plain = 1 if sizes else 0  # which may lie outside of what is searched
    return networks * (math.prod(size for size in sizes if size is not None) + plain)


def budget(study: Study, most: int | None = None) -> int:
    """Epochs of all trials, finalists and winners together, at most. most: trials that there are to try; None = enough."""
    return sum(each["count"] * each["epochs"] for each in _chosen_from(study, most))


def final_epochs(study: Study, trials: int, spent: int, winners: int, others: int) -> int:
    """Of each winner's training: `distill.epochs`, and what is left of the budget, up to half as many.

    trials: that there were; those that there are not leave nothing. spent: their epochs. others: finalists that begin beside the
    winners, and stop at RUNG.
    """
    distill = study.config.distill
    if not distill.leftover:
        return distill.epochs
    left = budget(study, trials) - spent
    lengths = range(_longest(study), distill.epochs, -1)
    return next((n for n in lengths if winners * n + others * math.ceil(RUNG * n) <= left), distill.epochs)


def _longest(study: Study) -> int:
    """The most epochs that a winner is trained for."""
    distill = study.config.distill
    return distill.epochs + (distill.epochs // 2 if distill.leftover else 0)


def _up_to(study: Study, share: float = 1.0) -> dict[str, int]:
    """Of a row of trainings at full length, or a share of it, that what the trials leave may lengthen: `up_to`."""
    return {"up_to": math.ceil(share * _longest(study))} if study.config.distill.leftover else {}


def _chosen_from(study: Study, most: int | None = None) -> list[dict[str, Any]]:
    """The trainings that a student is chosen from: see `trainings`."""
    refine, distill = study.config.refine, study.config.distill
    trials, winners = refine.trials, distill.winners
    if most is not None:
        trials = min(trials, most)
        winners = min(winners, trials)
    found = [
        {"stage": "refine", "what": "trials", "count": trials, "epochs": refine.epochs},
        {"stage": "distill", "what": "winners", "count": winners, "epochs": distill.epochs, **_up_to(study)},
    ]
    others = min(distill.finalists, trials) - winners
    pick = parsed(distill.pick)
    objective = next((bare(name) for name in study.config.objectives or (pick.name,) if name not in COSTS), None)
    if others > 0 and distill.epochs > 1 and objective is not None and pick.goes_by(objective):
        epochs = math.ceil(RUNG * distill.epochs)
        row = {"stage": "distill", "what": "finalists", "count": others, "epochs": epochs, **_up_to(study, RUNG)}
        found.insert(1, row)
    return found


def trainings(study: Study, controls: Sequence[str] | None = None, most: int | None = None) -> list[dict[str, Any]]:
    """Every training after the teachers', at most: {stage, what, count, epochs}; `up_to` epochs where trials may leave some.

    Args:
        controls: those that are trained, where the data are known; else all that the study asks for and can have.
        most: see `different`.
    """
    config = study.config
    alone = not left_out(study)
    distill, found = config.distill, _chosen_from(study, most)
    spent = min(sum(each["count"] * each.get("up_to", each["epochs"]) for each in found), budget(study, most))
    asked = [each for each in distill.controls if each != "no_search"] if alone else []
    for control in asked if controls is None else controls:
        found.append({"stage": "distill", "what": control, "count": 1, "epochs": distill.epochs, **_up_to(study)})
    if alone and "no_search" in distill.controls:
        found.append({"stage": "distill", "what": "no_search", "count": 1, "epochs": spent})
    if distill.compare and alone:
        count = 1 + distill.compare.random + distill.compare.largest  # the winner as short as the others
        found.append({"stage": "distill", "what": "compare", "count": count, "epochs": distill.compare.epochs})
    for _, step in config.compress.chain:
        found.append({"stage": "compress", "what": "recovery", "count": 1, "epochs": step.use.recover_epochs})
    for use in config.compress.quantize:
        if use.recover_epochs and format_of(config, use) in config.export.formats:
            what = f"as {use.use}, where its file loses too much"
            found.append({"stage": "compress", "what": what, "count": 1, "epochs": use.recover_epochs})
    return found
