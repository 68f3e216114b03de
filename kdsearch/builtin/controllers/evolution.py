"""Aging evolution (Real et al., Regularized Evolution for Image Classifier Architecture Search, AAAI 2019).

The population is the last P told; the oldest leaves, however good. Parents are the best of a random sample. Ours:
candidates that keep the constraints come first, then fronts of the losses; some children have a second parent; a generation is
asked at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Generator

from kdsearch.builtin.controllers.drawing import (
    REDRAWS,
    Distinct,
    ask_of,
    draw_values,
    generator,
    is_active,
    parents_first,
)
from kdsearch.kinds import Ask, Controller, Dim, Options, SearchSpace, Trial
from kdsearch.kinds.options import Value
from kdsearch.kinds.space import draw
from kdsearch.search.pareto import crowding, fronts


class EvolutionOptions(Options):
    population: int = Field(64, ge=2, description="the last so many candidates; so many random ones start")
    sample: int = Field(16, ge=1, description="drawn from the population; the best becomes a parent")
    mutations: int = Field(1, ge=1, description="changes a child differs by")
    crossover: float = Field(0.25, ge=0, le=1, description="share of children with two parents, before mutation")


class Evolution(Controller[EvolutionOptions]):
    """Over `space` by its neighbours and crossover, over dimensions by redrawing one."""

    def ask(
        self, space: SearchSpace[Any] | None, dims: Sequence[Dim], history: Sequence[Trial], n: int, seed: int
    ) -> list[Ask]:
        o, rng, tried = self.options, generator(seed, history), Distinct(space, history)
        dims = parents_first(dims)
        told = sorted(history, key=lambda trial: trial.number)
        population = _best_first(told[-o.population :])
        n_random = max(o.population - len(told), 0) if population else n
        found: list[Ask] = []
        for draws in range(REDRAWS * n):
            if len(found) == n:
                break
            is_random = len(found) < n_random or draws > REDRAWS * n // 2  # neighbours used up: start elsewhere
            ask = _drawn(space, dims, rng) if is_random else self._child(space, dims, population, rng)
            if tried.add(ask):
                found.append(ask)
        return found

    def _child(
        self, space: SearchSpace[Any] | None, dims: Sequence[Dim], population: Sequence[Trial], rng: Generator
    ) -> Ask:
        first = self._parent(population, rng)
        spec = space.parse(dict(first.spec)) if space is not None and first.spec is not None else None
        values: Mapping[str, Value] = first.values
        if _chance(rng) < self.options.crossover:
            second = self._parent(population, rng)
            if space is not None and spec is not None and second.spec is not None:
                spec = space.crossover(spec, space.parse(dict(second.spec)), rng)
            values = _mixed(dims, first.values, second.values, rng)
        weight = len(space.dims) or 1 if space is not None and spec is not None else 0
        for _ in range(self.options.mutations):
            if _chance(rng) * (weight + len(dims)) < weight:
                assert space is not None
                spec = next(iter(space.neighbours(spec, rng, 1)), spec)
            elif dims:
                values = _mutated(dims, values, rng)
        return ask_of(space, spec, values)

    def _parent(self, population: Sequence[Trial], rng: Generator) -> Trial:
        """The best of a sample with replacement; `population` is sorted, the best first."""
        drawn = torch.randint(len(population), (self.options.sample,), generator=rng)
        return population[int(drawn.min())]


def _best_first(trials: Sequence[Trial]) -> list[Trial]:
    """Feasible and complete ones by front, the least crowded first; then infeasible ones by what is broken; failed ones never."""
    whole = [trial for trial in trials if trial.state == "complete" and trial.losses]
    order: list[Trial] = []
    for members in fronts([trial.losses for trial in whole], [trial.violations for trial in whole]):
        distance = crowding([whole[i].losses for i in members])
        ranked = sorted(range(len(members)), key=lambda k: (-distance[k], whole[members[k]].number))
        order += [whole[members[k]] for k in ranked]
    feasible = [trial for trial in order if all(each <= 0 for each in trial.violations)]
    broken = [trial for trial in order if any(each > 0 for each in trial.violations)]
    unmeasured = [trial for trial in trials if trial.state == "pruned" and not trial.losses]
    stopped = [trial for trial in unmeasured if all(each <= 0 for each in trial.violations)]
    infeasible = [trial for trial in unmeasured if any(each > 0 for each in trial.violations)] + broken
    return feasible + stopped + sorted(infeasible, key=lambda trial: (_broken(trial), trial.number))


def _broken(trial: Trial) -> float:
    return sum(max(each, 0.0) for each in trial.violations)


def _drawn(space: SearchSpace[Any] | None, dims: Sequence[Dim], rng: Generator) -> Ask:
    return ask_of(space, space.sample(rng) if space is not None else None, draw_values(dims, rng))


def _mixed(dims: Sequence[Dim], a: Mapping[str, Value], b: Mapping[str, Value], rng: Generator) -> dict[str, Value]:
    """Each dimension from one of the parents, drawn where neither parent's counts here."""
    values: dict[str, Value] = {}
    for dim in dims:
        if is_active(dim, values):
            first, second = (a, b) if _chance(rng) < 0.5 else (b, a)
            values[dim.path] = first[dim.path] if dim.path in first else second.get(dim.path, draw(dim, rng))
    return values


def _mutated(dims: Sequence[Dim], values: Mapping[str, Value], rng: Generator) -> dict[str, Value]:
    """One dimension that counts drawn anew; those that come to count by it are drawn too."""
    active = [dim for dim in dims if dim.path in values]
    chosen = active[int(torch.randint(len(active), (1,), generator=rng))].path if active else ""
    changed: dict[str, Value] = {}
    for dim in dims:
        if is_active(dim, changed):
            keeps = dim.path in values and dim.path != chosen
            changed[dim.path] = values[dim.path] if keeps else draw(dim, rng)
    return changed


def _chance(rng: Generator) -> float:
    return float(torch.rand((), generator=rng, dtype=torch.float64))
