"""Which candidates promise most, as a Gaussian process of what was tried has it: for the best loss, or for a front of several.

Sources: Jones, Schonlau, Welch, Efficient Global Optimization of Expensive Black-Box Functions, J. Global Optim. 1998, eq. 15.
Golovin, Zhang, Random Hypervolume Scalarizations for Provable Multi-Objective Black Box Optimization, ICML 2020: the hypervolume
of points is, but for a factor, the mean over directions of how far the farthest of them reaches along each, to the power of the
number of objectives. So is its expected growth, for any number of objectives.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CORNER = 1.1  # of a hypervolume, where the best of each loss is 0 and the worst 1
DIRECTIONS = 64  # of two objectives; each further one doubles them
QUANTILES = 16  # of a prediction


def largest_improvements(x: Array, y: Array, pool: Array, n: int, running: Sequence[Sequence[float]] = ()) -> list[int]:
    """Rows of `pool` (P, d) to evaluate next, given losses y (N,) at x (N, d): those of the largest expected improvement.

    The points that are `running`, and each pick, are taken to be as predicted.
    """
    picks: list[int] = []
    y = _clipped(y)
    scale = y.std() or 1.0
    x, y = x.copy(), (y - y.mean()) / scale
    model = None
    for point in running:
        model = _fitted(x, y, model)
        x, y = np.vstack([x, point]), np.append(y, model.predict(np.array([point])))
    while len(picks) < min(n, len(pool)):
        model = _fitted(x, y, model)
        mean, deviation = model.predict(pool, return_std=True)
        gain = expected_improvement(y.min(), mean, deviation)
        gain[picks] = -np.inf
        best = int(gain.argmax())
        picks.append(best)
        x, y = np.vstack([x, pool[best]]), np.append(y, mean[best])
    return picks


def expected_improvement(best: float, mean: Array, deviation: Array) -> Array:
    """EI = s (u Phi(u) + phi(u)), u = (best - mean) / s."""
    from scipy.special import ndtr

    s = np.maximum(deviation, 1e-9)
    u = (best - mean) / s
    found: Array = s * (u * ndtr(u) + np.exp(-0.5 * u**2) / math.sqrt(2 * math.pi))
    return found


def largest_growths(
    x: Array, losses: Array, counts: Sequence[bool], pool: Array, costs: Array, n: int, front: Array | None = None
) -> list[int]:
    """Rows of `pool` (P, d) to evaluate next: those that the hypervolume is expected to grow most by.

    Args:
        x: (N, d), what was tried and, after these, what runs. losses: (N, m); of what runs those that are known, NaN for others.
        counts: of each that was tried whether it may be part of the front.
        costs: (P, m), the losses of the pool that are known, NaN for others.
        front: (K, m), losses of what was tried, may be part of the front, and is not among `x`.

    What runs, and each pick, is taken to be as predicted.
    """
    ended, m = len(counts), losses.shape[1]
    others = np.zeros((0, m)) if front is None else front
    every = np.vstack([losses, costs, others])
    is_cost = ~np.isnan(every).any(axis=0)
    unit = np.zeros_like(every)
    unit[:, is_cost] = _shares(every[:, is_cost])
    tried, means, beyond = np.split(unit, [len(x), len(x) + len(pool)])
    spreads = np.zeros_like(means)
    models: dict[int, Any] = {}
    for j in map(int, np.flatnonzero(~is_cost)):
        y = _clipped(losses[:ended, j])
        span = np.ptp(y) or 1.0
        tried[:ended, j], beyond[:, j] = (y - y.min()) / span, (others[:, j] - y.min()) / span
        models[j] = _fitted(x[:ended], tried[:ended, j], None)
        if len(x) > ended:
            tried[ended:, j] = models[j].predict(x[ended:])
    along = directions(m)
    known = reach(beyond, along)
    in_front = np.array([*counts, *[True] * (len(x) - ended)])
    picks: list[int] = []
    while len(picks) < min(n, len(pool)):
        for j in models:
            models[j] = _fitted(x, tried[:, j], models[j])
            means[:, j], spreads[:, j] = models[j].predict(pool, return_std=True)
        gain = _growth(np.maximum(reach(tried[in_front], along), known), means, spreads, along)
        if not gain.any():  # what is least known is left to find out
            gain = spreads.sum(axis=1)
        gain[picks] = -np.inf
        best = int(gain.argmax())
        picks.append(best)
        x, tried, in_front = np.vstack([x, pool[best]]), np.vstack([tried, means[best]]), np.append(in_front, True)
    return picks


def front_of(guesses: Sequence[float], costs: Array, n: int, tried: int = 0) -> list[int]:
    """n candidates, or all, by how much each adds to the hypervolume of guesses (more promises more) and costs (NaN: not known).

    Once none adds anything, by the guesses. The last `tried` rows are there already, and are not chosen.
    """
    unit = np.zeros_like(costs)
    is_cost = ~np.isnan(costs).any(axis=0)
    unit[:, is_cost] = _shares(costs[:, is_cost])
    span = float(np.ptp(guesses))
    unit[:, ~is_cost] = ((max(guesses) - np.array(guesses)) / (span or 1.0))[:, None]
    along = directions(costs.shape[1])
    end = len(unit) - tried
    front, left = unit[end:], list(range(end))
    chosen: list[int] = []
    while left and len(chosen) < n:
        gain = _growth(reach(front, along), unit[left], np.zeros((len(left), unit.shape[1])), along)
        best = gain.argmax() if gain.any() else np.argmax([guesses[i] for i in left])
        chosen.append(left.pop(int(best)))
        front = np.vstack([front, unit[chosen[-1]]])
    return chosen


def directions(m: int) -> Array:
    """Unit vectors of positive entries, spread evenly: (D, m)."""
    if m == 2:
        angles = (np.arange(DIRECTIONS) + 0.5) / DIRECTIONS * (math.pi / 2)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)
    from scipy.special import ndtri
    from scipy.stats import qmc

    even = qmc.Sobol(m, scramble=False).random(DIRECTIONS * 2 ** (m - 2))  # as many as a net of base 2 has
    # Half a normal distribution in each entry: no direction is preferred.
    drawn = ndtri((1 + np.clip(even, 1e-3, None)) / 2)
    found: Array = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return found


def reach(unit: Array, along: Array) -> Array:
    """(N, m) -> (D,): how far the farthest of the points reaches from the corner along each direction, to the power m."""
    if not len(unit):
        return np.zeros(len(along))
    found: Array = _reaches(unit, along).max(axis=0)
    return found


def _reaches(unit: Array, along: Array) -> Array:
    """(N, m) -> (N, D)."""
    inside = np.maximum(CORNER - unit, 0.0)
    least: Array = reduce(np.minimum, (inside[:, j, None] / along[:, j] for j in range(unit.shape[1])))
    found: Array = least ** unit.shape[1]
    return found


def _growth(front: Array, means: Array, spreads: Array, along: Array) -> Array:
    """(P,): by how much each point reaches beyond the front's (D,), the mean over directions and over what is predicted."""
    found = np.zeros(len(means))
    levels = _levels(means.shape[1]) if spreads.any() else np.zeros((1, means.shape[1]))
    for level in levels:
        found += np.maximum(_reaches(means + level * spreads, along) - front, 0.0).mean(axis=1)
    return found / len(levels)


def _levels(m: int) -> Array:
    """(QUANTILES, m): quantiles of the normal distribution, each objective's in an order of its own (a Latin hypercube)."""
    from scipy.special import ndtri

    rng = np.random.default_rng(0)
    quantiles = ndtri((np.arange(QUANTILES) + 0.5) / QUANTILES)
    return np.stack([rng.permutation(quantiles) for _ in range(m)], axis=1)


def _shares(costs: Array) -> Array:
    """(N, c) -> each in 0..1 of its column's span, by its logarithm: a cost is half of another, not less by so much."""
    sizes = np.abs(costs.astype(np.float64))
    least = np.min(sizes, axis=0, where=sizes > 0, initial=math.inf)  # of a column of zeros infinity, and all are 0
    logs = np.sign(costs) * np.log1p(sizes / least)
    span = np.ptp(logs, axis=0)
    found: Array = (logs - logs.min(axis=0)) / np.where(span > 0, span, 1.0)
    return found


def _clipped(y: Array) -> Array:
    """The bad ones need no telling apart."""
    usual = np.median(y)
    if usual == y.min():  # more than half of them are as good as the best
        usual = min(y[y > y.min()], default=usual)
    found: Array = np.minimum(y, usual + 3 * (usual - y.min()))
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
