"""Evolution over a space's own neighbours and crossover, or over dimensions: aging, elitist or by Pareto fronts.

- Aging (Real et al., Regularized Evolution for Image Classifier Architecture Search, AAAI 2019): `survivors: youngest`. The
  population is the last P scored; the oldest leaves, however good. Parents are the best of a random sample.
- Elitist, as in Zen-NAS and DisWOT (Dong et al., CVPR 2023): `survivors: best`, `sample: 1`. The lowest score leaves; any member
  becomes a parent.
- Several objectives: `survivors: best` with `sample: 2` is NSGA-II (Deb et al., 2002) for spaces without dimensions.

Ours: what breaks a constraint is no member; some children have a second parent; `generation` children are bred from one population
so that they can be scored at once; none is proposed twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Generator

from kdsearch.builtin.controllers.population import Population, Survival, Survivors
from kdsearch.errors import StudyError
from kdsearch.kinds import Ask, Controller, Dim, Options, SearchSpace, Trial
from kdsearch.kinds.options import Value
from kdsearch.kinds.space import draw
from kdsearch.kit.candidates import (
    Tried,
    ask_of,
    drawn,
    generator,
    new_ones,
)
from kdsearch.kit.dims import draw_values, is_active, parents_first
from kdsearch.kit.histories import in_order

CHILDREN = 10  # children bred for each wanted candidate before uniform draws stand in


class EvolutionOptions(Options):
    population: int = Field(64, ge=2, description="most members")
    survivors: Survivors = Field("youngest", description="which stay members: youngest = aging, best = elitist")
    n_start: int | None = Field(
        None, ge=1, description="candidates drawn before breeding begins; none = the population"
    )
    start: Literal["random", "default"] = Field(
        "random",
        description="they are uniform draws, or the space's default architecture and its mutations by one change",
    )
    sample: int = Field(16, ge=1, description="members drawn for a parent, with replacement; 1 = any member")
    top: int = Field(1, ge=1, description="the parent is one of so many of the sample, at random")
    order: Literal["descending", "ascending"] = Field(
        "descending",
        description="`top` counts from the best; ascending = from the worst, as DisWOT's released code sorts",
    )
    mutations: int = Field(1, ge=1, description="changes a child differs by")
    crossover: float = Field(0.25, ge=0, le=1, description="share of children with two parents, before mutation")
    generation: int = Field(16, ge=1, description="children of one population, scored at once; 1 = one after another")


class Evolution(Controller[EvolutionOptions]):
    """Over `space` by its neighbours and crossover, over dimensions by redrawing one.

    Raises:
        StudyError: `start: default`, and the space's fields have no defaults.
    """

    def __init__(self, options: EvolutionOptions) -> None:
        super().__init__(options)
        self._n_start = options.n_start or options.population
        self._tried = Tried()
        self._survival = Survival(options.population, options.survivors, min(self._n_start, options.population))

    def ask(
        self, space: SearchSpace[Any] | None, dims: Sequence[Dim], history: Sequence[Trial], n: int, seed: int
    ) -> list[Ask]:
        rng, told, dims = generator(seed, history), in_order(history), parents_first(dims)
        tried = self._tried.of(space, told)
        population = self._survival.of([trial for trial in told if trial.is_over])
        n_first = self._still_to_start(population, len(told))
        first = _first(space, dims, rng) if self.options.start == "default" and not told else None
        n_draws, n = 0, min(n, max(n_first, self.options.generation))

        def propose() -> Ask:
            nonlocal first, n_draws
            n_draws += 1
            if n_draws > CHILDREN * n:  # neighbours used up: start elsewhere
                return drawn(space, dims, rng)
            if not n_first:
                return self._child(space, dims, population.members, rng)
            if self.options.start == "random":
                return drawn(space, dims, rng)
            ask, first = first, None
            return ask or self._changed(space, dims, _first(space, dims, rng), 1, rng)

        return new_ones(n, tried, propose, space, dims)

    def _still_to_start(self, population: Population, n_told: int) -> int:
        """How many first candidates are missing; where few keep the constraints, breeding begins after twice as many."""
        if all(trial.state == "failed" for trial in population.members):
            return self._n_start
        return max(min(self._n_start - population.n_scored, 2 * self._n_start - n_told), 0)

    def _child(
        self, space: SearchSpace[Any] | None, dims: Sequence[Dim], members: Sequence[Trial], rng: Generator
    ) -> Ask:
        first = self._parent(members, rng)
        spec, values = first.spec, first.values
        if _chance(rng) < self.options.crossover:
            second = self._parent(members, rng)
            if space is not None and spec is not None and second.spec is not None:
                child = space.crossover(space.parse(dict(spec)), space.parse(dict(second.spec)), rng)
                spec = child.model_dump(mode="json")
            values = _mixed(dims, first.values, second.values, rng)
        return self._changed(space, dims, Ask(values, spec), self.options.mutations, rng)

    def _changed(
        self, space: SearchSpace[Any] | None, dims: Sequence[Dim], ask: Ask, mutations: int, rng: Generator
    ) -> Ask:
        spec = space.parse(dict(ask.spec)) if space is not None and ask.spec is not None else None
        values, weight = ask.values, 0
        if space is not None and spec is not None:
            weight = len(space.dims) or 1
        for _ in range(mutations):
            if _chance(rng) * (weight + len(dims)) < weight:
                assert space is not None
                spec = next(iter(space.neighbours(spec, rng, 1)), spec)
            elif dims:
                values = _mutated(dims, values, rng)
        return ask_of(space, spec, values)

    def _parent(self, members: Sequence[Trial], rng: Generator) -> Trial:
        """One of the best of a sample with replacement; `members` are sorted, the best first."""
        places = torch.randint(len(members), (self.options.sample,), generator=rng)
        ranked = places.sort(descending=self.options.order == "ascending").values[: self.options.top]
        at = int(torch.randint(len(ranked), (1,), generator=rng)) if len(ranked) > 1 else 0
        return members[int(ranked[at])]


def _first(space: SearchSpace[Any] | None, dims: Sequence[Dim], rng: Generator) -> Ask:
    """The architecture that the space's defaults give, at a draw of the further dimensions."""
    values = draw_values(dims, rng)
    try:
        return ask_of(space, space.at({}) if space is not None else None, values)
    except StudyError as error:
        raise StudyError(
            f"'{type(space).__name__}' has no default architecture to start from: '{error.path}' {error.problem}",
            path="start",
            expected="start: random",
        ) from error


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
