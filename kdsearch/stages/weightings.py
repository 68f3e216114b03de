"""Loss weightings scored without training, from the gradients of a recipe's terms at the start of a training.

g_i^b is the gradient of term i on batch b with respect to one parameter of the student, such as a kernel; a recipe with weights w
moves it along g^b(w) = sum_i w_i g_i^b. The score is how far a step of unit length goes down the task's loss on samples
that it has not seen, averaged over the parameters, since adaptive optimisers step about as far in each of them:

    score(w) = mean over parameters of  mean_{b != c} <g^b(w), g_task^c> / (rms_b |g^b(w)| rms_c |g_task^c|)

A term that agrees with the task adds to the numerator, one that is long for what it says of the task to the denominator. One
that is steadier over batches than the task itself, as a teacher's answers are where labels are few, shortens the step for the
same descent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from kdsearch.engine.cache import Live
from kdsearch.engine.gradients import TermGradients
from kdsearch.engine.loop import Training
from kdsearch.engine.terms import weight_of
from kdsearch.kinds import Clock
from kdsearch.kit.dims import draw_values, is_active
from kdsearch.ops.threads import cpu_threads
from kdsearch.store.files import read_json, write_json
from kdsearch.store.hashing import derive, stream
from kdsearch.study.recipe import RecipeSpace
from kdsearch.training.attempt import at_one_point, attempt
from kdsearch.training.materials import Materials
from kdsearch.training.request import Request
from kdsearch.training.train import assemble

WEIGHTINGS = "weightings.json"  # in the stage's folder
SETTINGS = 8  # of the distillers' options, the first one their defaults
DRAWS = 64  # weights of each setting, the first ones of the first setting all 1
BATCHES = 16
START = Clock(epoch=0, step=0, progress=0.0, epochs=1)


@dataclass(frozen=True)
class Weighting:
    """A point of the recipe (dimension path -> value), training settings at their defaults, and its score."""

    values: Mapping[str, Any]
    score: Annotated[float, Field(ge=-1 - 1e-4, le=1 + 1e-4)]  # of what is read back


def descent(found: TermGradients, weights: Tensor) -> float:
    """The score of weights [T], which multiply the terms as they are, in [-1, 1].

    Parameters that the task does not move count nothing; one that these weights do not move counts 0.
    """
    task = found.names.index("task")
    along = found.across[:, :, task] @ weights
    squared = torch.einsum("t,ltu,u->l", weights, found.within, weights).clamp_min(0) * found.within[:, task, task]
    moved = found.within[:, task, task] > 0
    if not bool(moved.any()):
        return 0.0
    each = torch.where(squared > 0, along / squared.clamp_min(torch.finfo(squared.dtype).tiny).sqrt(), 0.0)
    return float(each[moved].mean())


def scored_weightings(
    materials: Materials,
    specs: Mapping[str, Mapping[str, Any]],
    teachers: Mapping[str, Live],
    work: Path,
    between: Callable[[], None] = lambda: None,
) -> list[Weighting]:
    """Points of what the study leaves open of the loss, the recipe's defaults first; none where a loss is not finite.

    Empty where it leaves no weight open, and where the procedure begins with something else than a sum of the task's loss and
    other terms.

    Random settings of the distillers' options, the defaults among them, and of each setting many weights: a setting costs
    some backward passes, its weights nothing more.

    Args:
        specs: role -> the architecture that they are scored for.
        work: what is scored is kept there.
        between: called before each setting; it may raise.
    """
    recipe = materials.recipe
    if not recipe.weight_dims:
        return []
    file = work / WEIGHTINGS
    if file.exists():
        return list(read_json(file, list[Weighting], "Delete it; `kdsearch run` scores again."))
    rng = stream(materials.seed, "weightings")
    default, used = recipe.default(), {dim.path: True for dim in recipe.weight_dims if dim.path.endswith(".used")}
    found: list[Weighting] = []
    with cpu_threads(materials.study.config.run.threads_per_trial):
        for setting in range(_settings(recipe)):
            between()
            options = draw_values(recipe.option_dims, rng, used) if setting else {}
            values = {**default, **options, **used}
            gradients = attempt(partial(_gradients, materials, specs, teachers, values, work), work)
            if isinstance(gradients, str):  # a loss that is not finite, or what a trial at this point would fail of
                continue
            if gradients is None or "task" not in gradients.names:
                return []
            for nth in range(DRAWS):
                drawn = draw_values(recipe.weight_dims, rng) if setting or nth else {}
                point = {**default, **options, **drawn}
                active = {dim.path: point[dim.path] for dim in recipe.dims if is_active(dim, point)}
                found.append(Weighting(active, descent(gradients, _weights(materials, active, gradients))))
    write_json(file, [asdict(each) for each in found])
    return found


def are_scored(materials: Materials) -> bool:
    """Whether the study scores them: as `refine.weightings` says, by itself where labels are hidden and a start has them."""
    section = materials.study.config.refine
    if section.weightings == "auto":
        return materials.given.hides_targets and "scored" in section.first
    return section.weightings


def worth_in_steps(recipe: RecipeSpace) -> float:
    """How many training steps take about as long as the scoring: a forward pass, and a backward pass (twice that) a term."""
    terms = 1 + len(recipe.distillers)
    return _settings(recipe) * BATCHES * (1 + 2 * terms) / 3 if recipe.weight_dims else 0.0


def _settings(recipe: RecipeSpace) -> int:
    return SETTINGS if recipe.option_dims else 1


def _gradients(
    materials: Materials,
    specs: Mapping[str, Mapping[str, Any]],
    teachers: Mapping[str, Live],
    values: Mapping[str, Any],
    work: Path,
) -> TermGradients | None:
    request = Request("weightings", "recipe", specs, values, materials.study.config.refine.epochs)
    seed = derive(materials.seed, "weightings")
    with at_one_point():
        procedure, setup = assemble(materials, request, teachers, work / request.name, seed)
        return Training(procedure, setup, work / request.name, "", materials.device).gradients_at_start(BATCHES)


def _weights(materials: Materials, values: Mapping[str, Any], found: TermGradients) -> Tensor:
    """[T] of the point; 0 for the terms of a distiller that it leaves out."""
    recipe = materials.recipe.at(values)
    there = {"task", *(each.name for each in recipe.distillers)}
    scales = found.scales if recipe.normalize else {}
    weights = [
        weight_of(term, recipe.weights, START) * scales.get(term, 1.0) if term.partition(".")[0] in there else 0.0
        for term in found.names
    ]
    return torch.tensor(weights, dtype=torch.float64)
