"""What to train, as JSON: the same for trials, winners, controls and recovery, in this process or another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from kdsearch.store.hashing import derive, digest, file_digest
from kdsearch.study.recipe import ResolvedRecipe
from kdsearch.training.materials import Materials

Kind = Literal["recipe", "baseline", "all_labels", "recover", "cost"]
QUANTIZER = "quantizer"  # of a plan: the name of the quantizer whose it is; a step's has none
CONTROLS: tuple[Kind, ...] = ("baseline", "all_labels")
GROWN: tuple[Kind, ...] = (*CONTROLS, "recover", "cost")  # whose students are what phases make of them


@dataclass(frozen=True)
class Request:
    """What to train.

    Args:
        name: of its folder and random stream.
        kind: the recipe, the baseline (labels only, equal steps), the same with every label, recovery after pruning, or what
            would ship, which is not trained.
        specs: role -> architecture spec. values: the recipe's dimensions.
        epochs: whole length; until: share of it at which to pause.
        start: role -> weights to start from. plans: role -> those of the study's steps of compression so far, in order: they
            shape the models first, and the last one is what is recovered from; it may be a quantizer's.
        uncut: role -> the weights before the last plan.
        scales: term -> factor on its weight, in place of measuring it anew: recovery keeps the units of the training before.
        lr_factor: on the recipe's learning rate.
    """

    name: str
    kind: Kind
    specs: Mapping[str, Mapping[str, Any]]
    values: Mapping[str, Any]
    epochs: int
    until: float = 1.0
    start: Mapping[str, str] = field(default_factory=dict)
    plans: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    uncut: Mapping[str, str] = field(default_factory=dict)
    scales: Mapping[str, float] = field(default_factory=dict)
    lr_factor: float = 1.0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Outcome:
    """How a training ended, or where it waits.

    Args:
        history: rows of epochs.
        done: through; False: it waits at a rung.
        score: objective on validation of the weights that it leaves, if any.
        share: of its epochs that are trained.
        scales: term -> the factor on its weight that was measured at the start; none where the recipe does not normalise.
        notes: what the method said of it.
        beside: the other metrics among the objectives, of the same weights.
    """

    history: list[dict[str, Any]]
    done: bool
    score: float | None
    share: float
    scales: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    beside: Mapping[str, float] = field(default_factory=dict)

    def measured(self, objective: str) -> dict[str, float]:
        """Every metric among the objectives, the first of them called so; none where the training has no score."""
        return {} if self.score is None else {objective: self.score, **self.beside}


def recipe_of(materials: Materials, request: Request) -> ResolvedRecipe:
    recipe = materials.recipe.at(request.values)
    if request.kind in CONTROLS:
        return recipe.baseline()
    if request.kind != "recover":
        return recipe
    weights = dict(recipe.weights)
    for term, scale in request.scales.items():
        weights[term] = scale * recipe.weights.get(term, recipe.weights.get(term.partition(".")[0], 1.0))
    train = recipe.train.model_copy(update={"lr": request.lr_factor * recipe.train.lr})
    return replace(recipe, weights=weights, train=train, normalize=recipe.normalize and not request.scales)


def seed_of(materials: Materials, request: Request) -> int:
    """Of everything random in this training."""
    return derive(materials.seed, "training", request.name)


def owner_of(materials: Materials, request: Request) -> str:
    """Hash of what the training is made from: a checkpoint or result of another one is refused."""
    start = {role: file_digest(Path(file)) for role, file in request.start.items()}
    asked = {**request.as_json(), "until": 1.0, "start": start, "uncut": {}}  # what `start` was cut from
    return digest({"request": asked, "recipe": recipe_of(materials, request).as_json(), "seed": materials.seed})


def lr_scale_of(request: Request) -> dict[str, float]:
    """What the last step's plans ask of the learning rates, on the names that optimisers see."""
    return {
        f"{role}.{glob}": float(factor)
        for role, plans in request.plans.items()
        for glob, factor in plans[-1].get("lr_scale", {}).items()
    }
