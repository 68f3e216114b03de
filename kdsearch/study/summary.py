"""What a checked study would do, in numbers that its text alone gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kdsearch.study.check import student_space
from kdsearch.study.names import proxies
from kdsearch.study.recipe import RecipeSpace

if TYPE_CHECKING:
    from kdsearch.host import Host
    from kdsearch.study.study import Study


def summary(study: Study, host: Host) -> dict[str, Any]:
    """JSON values: the study's name, what is searched, and how many trainings of how many epochs there are."""
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
        "candidates": config.search.candidates,
        "proxies": [use.use for use, _ in proxies(study)],
        "trainings": trainings(study),
        "formats": config.export.formats,
    }


def trainings(study: Study, controls: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Every training after the teachers', at most: {stage, what, count, epochs}.

    controls: those that are trained, where the data are known; else all that the study asks for.
    """
    config = study.config
    distill, found = config.distill, []
    found.append({"stage": "refine", "what": "trials", "count": config.refine.trials, "epochs": config.refine.epochs})
    found.append({"stage": "distill", "what": "winners", "count": distill.winners, "epochs": distill.epochs})
    for control in distill.controls if controls is None else controls:
        found.append({"stage": "distill", "what": control, "count": distill.winners, "epochs": distill.epochs})
    if distill.compare:
        count = 1 + distill.compare.random + distill.compare.largest  # the winner as short as the others
        found.append({"stage": "distill", "what": "compare", "count": count, "epochs": distill.compare.epochs})
    if config.compress.prune:
        prune = config.compress.prune
        found.append({"stage": "compress", "what": "recovery", "count": 1, "epochs": prune.recover_epochs})
    return found
