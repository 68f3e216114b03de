"""Model-based search: a Gaussian process over what is known of each candidate; the largest expected improvement is asked next.

A dimension whose choices come with facts (an architecture with its training-free scores and sizes) is seen by these instead of
by name, and the choices whose first fact is largest come first. So a search starts from the scores and learns from the trials
how far to trust them.

Source: Jones, Schonlau, Welch, Efficient Global Optimization of Expensive Black-Box Functions, J. Global Optim. 1998, eq. 15;
several objectives as in Knowles, ParEGO, IEEE TEC 2006, eq. 2.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Generator

from kdsearch.errors import StudyError
from kdsearch.kinds import Ask, Controller, Dim, Options, Range, SearchSpace, Trial
from kdsearch.kinds.options import Value
from kdsearch.kit.candidates import (
    Distinct,
    Tried,
    ask_of,
    generator,
    key_of,
)
from kdsearch.kit.dims import Axis, draw_values, encode, is_active, parents_first
from kdsearch.kit.histories import in_order

Array = NDArray[np.float64]

RHO = 0.05  # of ParEGO: weight of the sum beside the largest weighted loss
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
        tried, rng = self._tried.of(space, told), generator(seed, history)
        features = Features([*(space.dims if space is not None else ()), *dims])
        pool = _pool(space, dims, tried, self.options.pool, rng)
        losses = _losses(told, rng)
        if len(losses) < self.options.first:
            pool += _recipes(space, dims, tried, {key_of(space, each.ask.spec, each.ask.values) for each in pool}, rng)
            told_points = [features.of(values_of(space, trial.spec, trial.values)) for trial in told]
            guesses = [features.guess(each.values) for each in pool]
            chosen = start(guesses, [features.of(each.values) for each in pool], told_points, n)
        else:
            seen = _seen(losses, self.options.seen)
            x = np.array([features.of(values_of(space, told[i].spec, told[i].values)) for i in seen])
            y = np.array([losses[i] for i in seen])
            running = [features.of(values_of(space, trial.spec, trial.values)) for trial in told if not trial.is_over]
            chosen = largest_improvements(x, y, np.array([features.of(each.values) for each in pool]), n, running)
        for i in chosen:
            tried.add(pool[i].ask)
        return [pool[i].ask for i in chosen]


@dataclass(frozen=True)
class Known:
    """A candidate and all its values by path, those of its architecture included."""

    ask: Ask
    values: Mapping[str, Value]


class Features:
    """Candidates as points: facts of a choice by rank in (0, 1), numbers by their place in the range, other choices one-hot.

    A dimension that does not count for a candidate stands in the middle, or at no choice.
    """

    def __init__(self, dims: Sequence[Dim]) -> None:
        self.dims = parents_first(dims)
        self._facts = {dim.path: _ranked(dim.range) for dim in self.dims if dim.range.facts}
        self._axes = {dim.path: Axis(dim) for dim in self.dims if not dim.range.facts}

    def guess(self, values: Mapping[str, Value]) -> float:
        """The mean of the first facts; 0 without any."""
        firsts = [facts[encode(values[path])][0] for path, facts in self._facts.items() if path in values]
        return sum(firsts) / len(firsts) if firsts else 0.0

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


def _pool(space: SearchSpace[Any] | None, dims: Sequence[Dim], tried: Distinct, n: int, rng: Generator) -> list[Known]:
    """n candidates drawn, or as many as the dimension with most known choices has, each of these in one; none that was tried."""
    known = max((dim for dim in dims if dim.range.facts), key=lambda dim: len(dim.range.choices), default=None)
    found: dict[str, Known] = {}
    for i in range(max(n, len(known.range.choices) if known else 0)):
        values = draw_values(dims, rng)
        if known is not None and not known.when:
            values[known.path] = known.range.choices[i % len(known.range.choices)]
        ask = ask_of(space, space.sample(rng) if space is not None else None, values)
        if not tried.is_tried(ask):
            found[key_of(space, ask.spec, ask.values)] = Known(ask, values_of(space, ask.spec, ask.values))
    return list(found.values())


def _recipes(
    space: SearchSpace[Any] | None, dims: Sequence[Dim], tried: Distinct, had: set[str], rng: Generator
) -> list[Known]:
    """DRAWN candidates of the choices with the largest first facts: among hundreds of choices the pool has these once or twice."""
    best = {
        dim.path: max(zip(dim.range.choices, dim.range.facts, strict=True), key=lambda each: each[1][0])[0]
        for dim in dims
        if dim.range.facts and not dim.when
    }
    found: dict[str, Known] = {}
    for _ in range(DRAWN if best else 0):
        values = {**draw_values(dims, rng), **best}
        ask = ask_of(space, space.sample(rng) if space is not None else None, values)
        key = key_of(space, ask.spec, ask.values)
        if key not in had and not tried.is_tried(ask):
            found[key] = Known(ask, values_of(space, ask.spec, ask.values))
    return list(found.values())


def values_of(
    space: SearchSpace[Any] | None, spec: Mapping[str, Any] | None, values: Mapping[str, Value]
) -> dict[str, Value]:
    """All values of a candidate by path."""
    own = space.values(space.parse(dict(spec))) if space is not None and spec is not None else {}
    return {**own, **values}


def _losses(told: Sequence[Trial], rng: Generator) -> dict[int, float]:
    """Index in `told` -> one loss; what failed, or was stopped without a finite one, has the worst, and never the best one's; what
    says nothing is left out. Where nothing is measured yet, how far limits are broken is what there is to learn from.
    """
    measured = {i: trial.losses or trial.curve[-1][1] for i, trial in enumerate(told) if trial.losses or trial.curve}
    width = max((len(losses) for losses in measured.values()), default=1)
    rows = {i: losses for i, losses in measured.items() if len(losses) == width and all(map(math.isfinite, losses))}
    if not rows:
        over = {i: math.fsum(value for value in each.violations if value > 0) for i, each in enumerate(told)}
        return {i: each for i, each in over.items() if each > 0}
    one = dict(zip(rows, _scalar(np.array(list(rows.values())), rng).tolist(), strict=True))
    bad = {i for i, each in enumerate(told) if each.state == "failed" or any(value > 0 for value in each.violations)}
    bad |= {i for i, losses in measured.items() if told[i].is_over and not all(map(math.isfinite, losses))}
    worst = max(one.values())
    if worst == min((loss for i, loss in one.items() if i not in bad), default=math.inf):
        worst += abs(worst) or 1.0
    return dict(sorted({**one, **dict.fromkeys(bad, worst)}.items()))


def _seen(losses: Mapping[int, float], n: int) -> list[int]:
    """Of more than n trials the n / 4 of least loss and the youngest others, in order."""
    if len(losses) <= n:
        return list(losses)
    best = set(sorted(losses, key=lambda i: (losses[i], i))[: n // 4])
    return sorted({*best, *[i for i in losses if i not in best][len(best) - n :]})


def _scalar(losses: Array, rng: Generator) -> Array:
    """(N, m) -> (N,): ParEGO's sum with weights drawn anew for each ask; one loss is itself."""
    if losses.shape[1] == 1:
        return losses[:, 0]
    spread = np.ptp(losses, axis=0)
    unit = (losses - losses.min(0)) / np.where(spread > 0, spread, 1.0)
    draws = -torch.rand(losses.shape[1], generator=rng).clamp_min(1e-12).log().numpy()
    weighted = unit * (draws / draws.sum())
    one: Array = weighted.max(1) + RHO * weighted.sum(1)
    return one


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


def largest_improvements(x: Array, y: Array, pool: Array, n: int, running: Sequence[Sequence[float]] = ()) -> list[int]:
    """Rows of `pool` (P, d) to evaluate next, given losses y (N,) at x (N, d).

    The points that are `running`, and each pick, are taken to be as predicted.
    """
    picks: list[int] = []
    usual = np.median(y)
    if usual == y.min():  # more than half of them are as good as the best
        usual = min(y[y > y.min()], default=usual)
    y = np.minimum(y, usual + 3 * (usual - y.min()))  # the bad ones need no telling apart
    scale = y.std() or 1.0
    x, y = x.copy(), (y - y.mean()) / scale
    model = None
    for point in running:
        model = _fitted(x, y, model)
        x, y = np.vstack([x, point]), np.append(y, model.predict(np.array([point])))
    while len(picks) < min(n, len(pool)):
        model = _fitted(x, y, model)
        mean, deviation = model.predict(pool, return_std=True)
        gain = _expected_improvement(y.min(), mean, deviation)
        gain[picks] = -np.inf
        best = int(gain.argmax())
        picks.append(best)
        x, y = np.vstack([x, pool[best]]), np.append(y, mean[best])
    return picks


def _expected_improvement(best: float, mean: Array, deviation: Array) -> Array:
    """EI = s (u Phi(u) + phi(u)), u = (best - mean) / s."""
    from scipy.special import ndtr

    s = np.maximum(deviation, 1e-9)
    u = (best - mean) / s
    found: Array = s * (u * ndtr(u) + np.exp(-0.5 * u**2) / math.sqrt(2 * math.pi))
    return found


def _fitted(x: Array, y: Array, known: Any) -> Any:
    """The process on these points; its lengths are found once an ask."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern, WhiteKernel

    kernel = (
        ConstantKernel(0.1, (1e-3, 10.0)) * DotProduct(1.0, (1e-2, 10.0))
        + ConstantKernel(1.0, (1e-2, 10.0)) * Matern(np.ones(x.shape[1]), (0.1, 30.0), nu=2.5)
        + WhiteKernel(0.05, (1e-3, 1.0))
    )
    chosen = kernel if known is None else known.kernel_
    process = GaussianProcessRegressor(chosen, optimizer="fmin_l_bfgs_b" if known is None else None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a length at its bound is no fault
        return process.fit(x, y)
