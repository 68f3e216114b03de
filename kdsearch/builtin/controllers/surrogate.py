"""Model-based search: a Gaussian process over what is known of each candidate; what promises most is asked next.

A dimension whose choices come with facts (an architecture with its training-free scores and sizes) is seen by these instead of
by name, and the choices whose first fact is largest come first. So a search starts from the scores and learns from the trials
how far to trust them. Of several objectives those that are known of each choice before a training (`Range.costs`) are not
predicted: the search starts with the front of guesses and costs, and asks for what the front is expected to grow most by.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field
from torch import Generator

from kdsearch.builtin.controllers.gains import front_of, largest_growths, largest_improvements
from kdsearch.errors import StudyError
from kdsearch.kinds import Ask, Controller, Dim, Options, Range, SearchSpace, Trial
from kdsearch.kinds.options import Value
from kdsearch.kit.candidates import Distinct, Tried, ask_of, generator, key_of
from kdsearch.kit.dims import Axis, draw_values, encode, is_active, parents_first
from kdsearch.kit.histories import in_order
from kdsearch.kit.pareto import fronts

Losses = tuple[float, ...]

DRAWN = 16  # equally promising candidates that a start without a model takes the farthest of


class SurrogateOptions(Options):
    first: int = Field(3, ge=1, description="trials before the model is asked: by the first fact, or at random")
    pool: int = Field(512, ge=1, description="candidates that the model looks at, and each choice that has facts")
    seen: int = Field(256, ge=2, description="trials that the model learns from: the youngest, and a quarter the best")


class Surrogate(Controller[SurrogateOptions]):
    """Trials that were stopped count with their last losses; what breaks a constraint, failed, or was stopped without a finite
    loss, with the worst; what runs is taken to end as the model predicts, so that its neighbours are not asked beside it. While
    nothing has kept the constraints, how far they are broken is what is learnt.

    Raises:
        StudyError: the space has no dimensions to search.
    """

    reads_facts = True

    def __init__(self, options: SurrogateOptions) -> None:
        super().__init__(options)
        self._tried = Tried()

    def ask(
        self, space: SearchSpace[Any] | None, dims: Sequence[Dim], history: Sequence[Trial], n: int, seed: int
    ) -> list[Ask]:
        if space is not None and not space.dims:
            raise StudyError(
                f"surrogate cannot search '{type(space).__name__}': it declares no dimensions",
                expected="strategy evolution or random",
            )
        told = in_order(history)
        tried = self._tried.of(space, told)
        draws = Draws(space, dims, tried, generator(seed, history))
        features = Features([*(space.dims if space is not None else ()), *dims])
        pool = draws.pool(self.options.pool)
        losses, bad = _losses(told)
        if len(losses) < self.options.first:
            begin = _begun_on_a_front if features.has_costs else _begun
            chosen = begin(draws, features, pool, told, n)
        else:
            seen = _seen(losses, self.options.seen)
            running = [draws.known(trial.spec, trial.values) for trial in told if not trial.is_over]
            points = [draws.known(told[i].spec, told[i].values) for i in seen]
            found = [losses[i] for i in seen]
            counts = [i not in bad for i in seen]
            if len(found[0]) > 1:
                pool += draws.crossed(points[_least(found, features.costs(points[0].values))], pool)
                front = [
                    (draws.known(told[i].spec, told[i].values), losses[i]) for i in _unseen_front(losses, bad, seen)
                ]
                chosen = _growing(features, pool, points, found, counts, running, front, n)
            else:
                chosen = _improving(features, pool, points, [loss for (loss,) in found], running, n)
        for each in chosen:
            tried.add(each.ask)
        return [each.ask for each in chosen]


@dataclass(frozen=True)
class Known:
    """A candidate and all its values by path, those of its architecture included."""

    ask: Ask
    values: Mapping[str, Value]


@dataclass(frozen=True)
class Draws:
    """Candidates of a space and further dimensions that were not tried."""

    space: SearchSpace[Any] | None
    dims: Sequence[Dim]
    tried: Distinct
    rng: Generator

    def known(self, spec: Mapping[str, Any] | None, values: Mapping[str, Value]) -> Known:
        own = self.space.values(self.space.parse(dict(spec))) if self.space is not None and spec is not None else {}
        return Known(Ask(values, spec), {**own, **values})

    def pool(self, n: int) -> list[Known]:
        """n drawn, or as many as the dimension with most known choices has, each of these in one."""
        known = max((dim for dim in self.dims if dim.range.facts), key=lambda dim: len(dim.range.choices), default=None)
        found: dict[str, Known] = {}
        for i in range(max(n, len(known.range.choices) if known else 0)):
            values = draw_values(self.dims, self.rng)
            if known is not None and not known.when:
                values[known.path] = known.range.choices[i % len(known.range.choices)]
            self._add(found, values)
        return list(found.values())

    def recipes(self, given: Mapping[str, Value], had: Sequence[Known]) -> list[Known]:
        """DRAWN with these values, none of `had`: among hundreds of choices the pool has each once or twice."""
        known = {self._key(each.ask) for each in had}
        found: dict[str, Known] = {}
        for _ in range(DRAWN if given else 0):
            self._add(found, {**draw_values(self.dims, self.rng), **given})
        return [each for key, each in found.items() if key not in known]

    def crossed(self, given: Known, pool: Sequence[Known]) -> list[Known]:
        """Each architecture of the pool with the given one's recipe, none that is there."""
        known = {self._key(each.ask) for each in pool}
        architectures = {dim.path for dim in self.dims if dim.range.facts}
        recipe = {path: value for path, value in given.ask.values.items() if path not in architectures}
        found: dict[str, Known] = {}
        for each in pool:
            own = {path: value for path, value in each.ask.values.items() if path in architectures}
            values = {**recipe, **own}
            if all(is_active(dim, values) == (dim.path in values) for dim in self.dims):
                self._put(found, Ask(values, each.ask.spec))
        return [each for key, each in found.items() if key not in known]

    def architectures(self, pool: Sequence[Known]) -> list[Known]:
        """Of the pool the first of each architecture."""
        named = [dim.path for dim in self.dims if dim.range.facts]
        found: dict[str, Known] = {}
        for each in pool:
            own = {path: value for path, value in each.ask.values.items() if path in named}
            found.setdefault(key_of(self.space, each.ask.spec, own), each)
        return list(found.values())

    def filled(self, chosen: Sequence[Known], pool: Sequence[Known], n: int) -> list[Known]:
        """n different ones, the chosen first, as far as the pool goes."""
        found: dict[str, Known] = {}
        for each in [*chosen, *pool]:
            found.setdefault(self._key(each.ask), each)
        return list(found.values())[:n]

    def _add(self, found: dict[str, Known], values: Mapping[str, Value]) -> None:
        spec = self.space.sample(self.rng) if self.space is not None else None
        self._put(found, ask_of(self.space, spec, values))

    def _put(self, found: dict[str, Known], ask: Ask) -> None:
        if not self.tried.is_tried(ask):
            found[self._key(ask)] = self.known(ask.spec, ask.values)

    def _key(self, ask: Ask) -> str:
        return key_of(self.space, ask.spec, ask.values)


class Features:
    """Candidates as points: facts of a choice by rank in (0, 1), numbers by their place in the range, other choices one-hot.

    A dimension that does not count for a candidate stands in the middle, or at no choice.
    """

    def __init__(self, dims: Sequence[Dim]) -> None:
        self.dims = parents_first(dims)
        self._facts = {dim.path: _ranked(dim.range) for dim in self.dims if dim.range.facts}
        self._costs = {dim.path: _priced(dim.range) for dim in self.dims if dim.range.costs}
        self._axes = {dim.path: Axis(dim) for dim in self.dims if not dim.range.facts}
        self._width = max((len(dim.range.costs[0]) for dim in self.dims if dim.range.costs), default=0)

    @property
    def has_costs(self) -> bool:
        """Of several objectives: of one there is no front."""
        return self._width > 1

    def guess(self, values: Mapping[str, Value]) -> float:
        """The mean of the first facts; 0 without any."""
        firsts = [facts[encode(values[path])][0] for path, facts in self._facts.items() if path in values]
        return sum(firsts) / len(firsts) if firsts else 0.0

    def costs(self, values: Mapping[str, Value], m: int | None = None) -> list[float]:
        """What is known of each objective's loss, NaN where nothing is. m: how many objectives, where no choice has costs."""
        known = [costs[encode(values[path])] for path, costs in self._costs.items() if path in values]
        if not known:
            return [math.nan] * (m or self._width)
        return [float(each) for each in np.sum(known, axis=0)]

    def of(self, values: Mapping[str, Value]) -> list[float]:
        point: list[float] = []
        for dim in self.dims:
            counts = dim.path in values and is_active(dim, values)
            if dim.path not in self._facts:
                point += _placed(self._axes[dim.path], values[dim.path] if counts else None, counts)
            elif counts:
                point += self._facts[dim.path][encode(values[dim.path])]
            else:
                point += [0.5] * len(dim.range.facts[0])
        return point


def _ranked(ranged: Range) -> dict[str, list[float]]:
    """Choice -> the rank of each of its facts among the choices, in (0, 1)."""
    facts = np.nan_to_num(np.array(ranged.facts, dtype=np.float64), nan=-np.inf)
    below = [np.searchsorted(np.sort(column), column, "left") for column in facts.T]
    among = [np.searchsorted(np.sort(column), column, "right") for column in facts.T]
    ranks = (np.array(below) + np.array(among)).T / (2 * len(facts))  # equal ones share the middle of their places
    return {encode(choice): row.tolist() for choice, row in zip(ranged.choices, ranks, strict=True)}


def _priced(ranged: Range) -> dict[str, Losses]:
    return {encode(choice): costs for choice, costs in zip(ranged.choices, ranged.costs, strict=True)}


def _placed(axis: Axis, value: Value, counts: bool) -> list[float]:
    distribution = axis.distribution
    inner = axis.inner(value) if counts else None
    if hasattr(distribution, "choices"):
        return [float(inner == choice) for choice in distribution.choices]
    if inner is None:
        return [0.5]
    low, high = float(distribution.low), float(distribution.high)
    if distribution.log:
        low, high, inner = math.log(low), math.log(high), math.log(inner)
    return [(inner - low) / (high - low) if high > low else 0.5]


def _begun(draws: Draws, features: Features, pool: list[Known], told: Sequence[Trial], n: int) -> list[Known]:
    """By the best guesses; of equal ones the farthest from all that was tried."""
    best = {
        dim.path: max(zip(dim.range.choices, dim.range.facts, strict=True), key=lambda each: each[1][0])[0]
        for dim in draws.dims
        if dim.range.facts and not dim.when
    }
    pool = [*pool, *draws.recipes(best, pool)]
    guesses = [features.guess(each.values) for each in pool]
    points = [features.of(each.values) for each in pool]
    tried = [features.of(draws.known(trial.spec, trial.values).values) for trial in told]
    return [pool[i] for i in start(guesses, points, tried, n)]


def _begun_on_a_front(
    draws: Draws, features: Features, pool: list[Known], told: Sequence[Trial], n: int
) -> list[Known]:
    """By what each architecture adds to the front of guesses and costs, with the recipe of the first trial that has not failed:
    what tells networks apart should not be their recipes.
    """
    fair = [trial for trial in told if trial.state != "failed" and all(each <= 0 for each in trial.violations)]
    trials = [draws.known(trial.spec, trial.values) for trial in fair]
    once = draws.architectures(pool)
    every = [*once, *trials]
    guesses = [features.guess(each.values) for each in every]
    costs = np.array([features.costs(each.values) for each in every])
    chosen: list[Known] = []
    for i in front_of(guesses, costs, n, len(trials)) if once else []:
        first = next(iter([*trials, *chosen]), once[i])
        chosen.append(next(iter(draws.crossed(first, [once[i]])), once[i]))
    return draws.filled(chosen, pool, n)


def _improving(
    features: Features,
    pool: Sequence[Known],
    seen: Sequence[Known],
    losses: Sequence[float],
    running: Sequence[Known],
    n: int,
) -> list[Known]:
    x, points, others = (np.array([features.of(each.values) for each in some]) for some in (seen, pool, running))
    return [pool[i] for i in largest_improvements(x, np.array(losses), points, n, others.tolist())]


def _growing(
    features: Features,
    pool: Sequence[Known],
    seen: Sequence[Known],
    losses: Sequence[Losses],
    counts: Sequence[bool],
    running: Sequence[Known],
    front: Sequence[tuple[Known, Losses]],
    n: int,
) -> list[Known]:
    """front: further trials that are no worse than any, which the model does not see."""
    if not pool:
        return []
    m = len(losses[0])
    unknown = (math.nan,) * m

    def priced(each: Known, losses: Losses) -> list[float]:
        known = features.costs(each.values, m)
        return [loss if math.isnan(cost) else cost for cost, loss in zip(known, losses, strict=True)]

    ended = [priced(each, its) for each, its in zip(seen, losses, strict=True)]
    tried = np.array([*ended, *(priced(each, unknown) for each in running)])
    others = np.array([priced(each, its) for each, its in front]).reshape(-1, m)
    x, points = (np.array([features.of(each.values) for each in some]) for some in ([*seen, *running], pool))
    costs = np.array([features.costs(each.values, m) for each in pool])
    return [pool[i] for i in largest_growths(x, tried, counts, points, costs, n, others)]


def _least(losses: Sequence[Losses], costs: Sequence[float]) -> int:
    """Which is the best in the first objective that is not known beforehand; a bad trial where all are."""
    j = next((j for j, cost in enumerate(costs) if math.isnan(cost)), 0)
    return min(range(len(losses)), key=lambda i: (losses[i][j], i))


def _losses(told: Sequence[Trial]) -> tuple[dict[int, Losses], set[int]]:
    """Index in `told` -> losses, and which of these are bad.

    What failed, broke a limit, or was stopped without finite losses has the worst ones, and never the best; what says nothing is
    left out. Where nothing is measured yet, how far limits are broken is what there is to learn from.
    """
    measured = {i: trial.losses or trial.curve[-1][1] for i, trial in enumerate(told) if trial.losses or trial.curve}
    width = max((len(losses) for losses in measured.values()), default=1)
    rows = {i: losses for i, losses in measured.items() if len(losses) == width and all(map(math.isfinite, losses))}
    if not rows:
        over = {i: math.fsum(value for value in each.violations if value > 0) for i, each in enumerate(told)}
        return {i: (each,) for i, each in over.items() if each > 0}, set()
    bad = {i for i, each in enumerate(told) if each.state == "failed" or any(value > 0 for value in each.violations)}
    bad |= {i for i, losses in measured.items() if told[i].is_over and not all(map(math.isfinite, losses))}
    good = [losses for i, losses in rows.items() if i not in bad]
    worst = tuple(max(column) for column in zip(*rows.values(), strict=True))
    if good:
        best = tuple(min(column) for column in zip(*good, strict=True))
        worst = tuple(w + (abs(w) or 1.0) if w == b else w for w, b in zip(worst, best, strict=True))
    return dict(sorted({**rows, **dict.fromkeys(bad, worst)}.items())), bad


def _seen(losses: Mapping[int, Losses], n: int) -> list[int]:
    """Of more than n trials the n / 4 of least losses, front by front, and the youngest others, in order."""
    if len(losses) <= n:
        return list(losses)
    at = list(losses)
    order = [at[i] for front in fronts(list(losses.values()), enough=n // 4) for i in front]
    best = set(order[: n // 4])
    return sorted({*best, *[i for i in losses if i not in best][len(best) - n :]})


def _unseen_front(losses: Mapping[int, Losses], bad: set[int], seen: Sequence[int]) -> list[int]:
    """Of trials that are many the first front without those that are seen."""
    if len(seen) == len(losses):
        return []
    good = [i for i in losses if i not in bad]
    first = fronts([losses[i] for i in good], enough=1)[:1]
    return [good[i] for front in first for i in front if good[i] not in seen]


def start(
    guesses: Sequence[float], points: Sequence[Sequence[float]], known: Sequence[Sequence[float]], n: int
) -> list[int]:
    """Indices of n candidates by their guesses; of the first `DRAWN` with equal ones, the farthest from all tried and chosen.

    So a few trials see both ends of a range (Mitchell's best candidate), where independent draws often miss one.
    """
    left, chosen, seen = list(range(len(points))), list[int](), [*known]
    while left and len(chosen) < n:
        best = max(guesses[i] for i in left)
        equal = [i for i in left if guesses[i] == best][:DRAWN]
        apart = [min((math.dist(points[i], each) for each in seen), default=0.0) for i in equal]
        pick = equal[apart.index(max(apart))]
        chosen.append(pick)
        seen.append(points[pick])
        left.remove(pick)
    return chosen
