"""What `refine` tries beside its controller's trials: the best by scores, and what anybody would take without a search."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

from kdsearch.engine.cache import Live
from kdsearch.kinds import Trial
from kdsearch.kit.dims import encode
from kdsearch.stages.costs import violations
from kdsearch.stages.trial_facts import architecture_dims, costs_of, specs_of
from kdsearch.stages.weightings import are_scored, scored_weightings
from kdsearch.store.artifacts import Artifact
from kdsearch.training.materials import Materials

T = TypeVar("T")
COSTS = "params", "macs"
EVERY = 3  # one in so many trials is a start: a controller that has few trials finds no recipe
BEST_SCORED = "the best score"
WORDS = {"largest": "the most", "cheapest": "the least"}


@dataclass(frozen=True)
class Start:
    """A trial's values, and what it is, for people: of one network all that it is. is_early: it does not wait for its turn."""

    values: Mapping[str, Any]
    what: tuple[str, ...]
    is_early: bool = False


def early(trials: int) -> int:
    """How many other families are tried right after the best-scored network."""
    return trials // EVERY


def in_turns(lists: Sequence[Sequence[T]]) -> list[T]:
    """The first of each list, then the second of each, and so on: eight trials have room for three starts."""
    return [each for turn in zip_longest(*lists) for each in turn if each is not None]


def next_start(starts: Sequence[Start], history: Sequence[Trial]) -> Start | None:
    """The first one that is no trial yet."""
    if len(history) >= EVERY * len(starts):  # so many trials are enough for all of them
        return None
    tried = {encode(dict(trial.values)) for trial in history}
    return next((each for each in starts if encode(dict(each.values)) not in tried), None)


def what_was_tried(starts: Sequence[Start], history: Sequence[Trial]) -> list[list[str]]:
    """Of each trial what it is, for people; nothing of what the controller thought of."""
    known = {encode(dict(each.values)): list(each.what) for each in starts}
    return [known.get(encode(dict(trial.values)), []) for trial in history]


def starts_of(
    materials: Materials,
    searched: Artifact,
    kept: Mapping[str, Mapping[str, Any]],
    teachers: Mapping[str, Live],
    work: Path,
    between: Callable[[], None] = lambda: None,
) -> list[Start]:
    """By `refine.first` and `refine.weightings`, each once: the best-scored architecture comes first.

    Its recipe is the best-scored weighting, where weightings are scored, else the recipe's defaults, and so is that of the other
    families' best; that of the networks that anybody would take is the plain one.

    `between`: see `scored_weightings`.
    """
    section, recipe = materials.study.config.refine, materials.recipe
    paths = dict(zip(kept, (dim.path for dim in architecture_dims(materials, kept)), strict=True))
    best = {path: next(iter(kept[role])) for role, path in paths.items()}
    weightings = []
    if are_scored(materials):
        weightings = scored_weightings(materials, specs_of(Trial(0, best), kept), teachers, work, between)
    top = max(weightings, key=lambda each: each.score, default=None)  # the first one among equals

    found = []
    if top is not None:
        found.append(({**top.values, **best}, f"{BEST_SCORED}, with the best-scored weighting"))
    elif "scored" in section.first:
        found.append(({**recipe.default(), **best}, BEST_SCORED))
    first = found[0][0] if found else {**recipe.default(), **best}
    families = []
    if "families" in section.first:
        rows = [(paths[role], searched.facts["roles"][role]["families"]) for role in materials.ships]
        others = [(path, name, row["key"]) for path, by_name in rows for name, row in best_first(by_name)]
        families = [
            ({**first, path: key}, f"{BEST_SCORED} of {name}") for path, name, key in others[: early(section.trials)]
        ]
    anybodys: list[list[tuple[dict[str, Any], str]]] = []
    for kind in (each for each in WORDS if each in section.first):
        tops = {role: searched.facts["roles"][role][kind] for role in materials.ships}
        anybodys.append([])
        for cost in (name for name in COSTS if name in next(iter(tops.values()))):
            own = {paths[role]: by_cost[cost]["key"] for role, by_cost in tops.items()}
            anybodys[-1].append(({**recipe.plain(), **best, **own}, f"{WORDS[kind]} {cost}"))
    found += [*families, *in_turns(anybodys)]
    keeping = [each for each in found if _keeps(materials, each[0], kept)]
    return [
        Start(values, tuple(what for other, what in keeping if other == values), (values, what) in families)
        for at, (values, what) in enumerate(keeping)
        if values not in [other for other, _ in keeping[:at]]
    ]


def best_first(families: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Families with the row of their best-scored network, by its score: a file does not keep their order."""

    def order(each: tuple[str, Mapping[str, Any]]) -> tuple[float, str]:
        score = each[1]["score"]
        return math.inf if score is None else -score, each[0]

    return sorted(families.items(), key=order)


def _keeps(materials: Materials, values: Mapping[str, Any], kept: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the networks keep the limits together, where several ship; one alone was looked at in the search."""
    if len(materials.ships) < 2:
        return True
    over = violations(materials, costs_of(materials, Trial(0, values), kept))
    return all(each <= 0 for each in over.values())
