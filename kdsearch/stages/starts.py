"""What `refine` tries before its controller is asked: the best by scores, and what anybody would take without a search."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdsearch.engine.cache import Live
from kdsearch.kinds import Trial
from kdsearch.stages.trial_facts import architecture_dims, specs_of
from kdsearch.stages.weightings import scored_weightings
from kdsearch.store.artifacts import Artifact
from kdsearch.training.materials import Materials

COSTS = "params", "macs"
BEST_SCORED = "the best score"
WORDS = {"largest": "the most", "cheapest": "the least"}


@dataclass(frozen=True)
class Start:
    """A trial's values, and what it is the first of, for people."""

    values: Mapping[str, Any]
    what: str


def starts_of(
    materials: Materials,
    searched: Artifact,
    kept: Mapping[str, Mapping[str, Any]],
    teachers: Mapping[str, Live],
    work: Path,
    between: Callable[[], None] = lambda: None,
) -> list[Start]:
    """By `refine.first` and `refine.weightings`, each once: the best-scored architecture comes first.

    `between`: see `scored_weightings`.
    """
    section, recipe = materials.study.config.refine, materials.recipe
    paths = dict(zip(kept, (dim.path for dim in architecture_dims(materials, kept)), strict=True))
    best = {path: next(iter(kept[role])) for role, path in paths.items()}
    found = []
    if section.weightings:
        scored = scored_weightings(materials, specs_of(Trial(0, best), kept), teachers, work, between)
        top = max(scored, key=lambda each: each.score, default=None)  # the first one among equals
        if top is not None:
            found.append(Start({**top.values, **best}, f"{BEST_SCORED}, with the best-scored weighting"))
    if "scored" in section.first:
        found.append(Start({**recipe.default(), **best}, BEST_SCORED))
    for kind in (each for each in WORDS if each in section.first):
        rows = {role: searched.facts["roles"][role][kind] for role in materials.ships}
        for cost in (name for name in COSTS if name in next(iter(rows.values()))):
            own = {paths[role]: by_cost[cost]["key"] for role, by_cost in rows.items()}
            found.append(Start({**recipe.plain(), **best, **own}, f"{WORDS[kind]} {cost}"))
    return [each for at, each in enumerate(found) if each.values not in [other.values for other in found[:at]]]
