"""Ranges of activations from samples: what of the outermost values is given up, so that the others are finer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from kdsearch.kit.onnx import open_model

Array = np.ndarray[Any, Any]
Method = Literal["minmax", "percentile", "entropy", "mse"]
LEVELS = 255  # steps of 8 bits
DRAWN = 512  # values kept of a tensor of one sample, beside its least and largest
PERCENTILE = 99.9
BINS = 2048
TRIED = 16_384  # values of which the squared error is taken
SHARES = np.linspace(0.2, 1.0, 41)  # of the whole range, that are tried


@dataclass(frozen=True)
class Seen:
    """values: (N,) that a tensor had. weights: (N,) how many of its values each stands for."""

    values: Array
    weights: Array


def observed(model: Any, rows: Iterable[Mapping[str, Array]], names: Sequence[str]) -> dict[str, Seen]:
    """Tensor -> what it had: of every sample DRAWN values, which stand for all of it, and the least and the largest.

    Args:
        model: the fp32 `onnx.ModelProto`. rows: inputs, one sample each. names: tensors, of the graph's inputs too.
    """
    rng = np.random.default_rng(0)
    fed = {each.name for each in model.graph.input}
    session = open_model(model, [name for name in names if name not in fed])
    outputs = [name for name in names if name not in fed]
    kept: dict[str, list[tuple[Array, Array]]] = {name: [] for name in names}
    for row in rows:
        values = {**row, **dict(zip(outputs, session.run(outputs, dict(row)) if outputs else [], strict=True))}
        for name in names:
            flat = np.asarray(values[name], np.float32).ravel()
            if not flat.size:
                continue
            if flat.size <= DRAWN:
                kept[name].append((flat, np.ones(flat.size)))
            else:
                ends = np.asarray([flat.min(), flat.max()], np.float32)
                kept[name].append((flat[rng.integers(0, flat.size, DRAWN)], np.full(DRAWN, flat.size / DRAWN)))
                kept[name].append((ends, np.ones(2)))
    return {
        name: Seen(*(np.concatenate(each) for each in zip(*parts, strict=True)))
        for name, parts in kept.items()
        if parts
    }


def range_of(seen: Seen, method: Method) -> tuple[float, float]:
    """(least, largest) of finite values that 8 bits should span, 0 within. Values beyond are clipped to it."""
    is_finite = np.isfinite(seen.values)
    values, weights = seen.values[is_finite], seen.weights[is_finite]
    if not values.size:
        return 0.0, 0.0
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    if method == "minmax" or low == high:
        return low, high
    order = np.argsort(values, kind="stable")
    values, weights = values[order].astype(np.float64), weights[order]
    if method == "percentile":
        tail = (100 - PERCENTILE) / 100 / (2 if low < 0 < high else 1)
        low = min(_quantile(values, weights, tail), 0.0) if low < 0 else low
        return low, max(_quantile(values, weights, 1 - tail), 0.0) if high > 0 else high
    if method == "mse":
        return _least_error(*_fewer(values, weights), low, high)
    return _least_divergence(values, weights, low, high)


def _quantile(values: Array, weights: Array, share: float) -> float:
    """The first of sorted values up to which at least this share of all weights lies."""
    reached = np.cumsum(weights)
    return float(values[min(int(np.searchsorted(reached, share * reached[-1])), len(values) - 1)])


def _fewer(values: Array, weights: Array) -> tuple[Array, Array]:
    """TRIED or so of sorted values: the outermost themselves, of the others one of several neighbours, which stands for all."""
    step, ends = -(-len(values) // TRIED), TRIED // 16
    if step == 1:
        return values, weights
    inner = slice(ends, len(values) - ends)
    starts = np.arange(0, len(values) - 2 * ends, step)
    thinned = values[inner][np.minimum(starts + step // 2, len(values) - 2 * ends - 1)]
    stands_for = np.add.reduceat(weights[inner], starts)
    return (
        np.concatenate([values[:ends], thinned, values[-ends:]]),
        np.concatenate([weights[:ends], stands_for, weights[-ends:]]),
    )


def _least_error(values: Array, weights: Array, low: float, high: float) -> tuple[float, float]:
    """The ends, moved one after the other, at which the mean squared error is the least."""

    def error(a: float, b: float) -> float:
        scale = (b - a) / LEVELS
        if scale <= 0:
            return float("inf")
        zero = np.rint(-a / scale)
        q = np.clip(np.rint(values / scale) + zero, 0, LEVELS)
        return float(np.square((q - zero) * scale - values) @ weights)

    for _ in range(2):
        high = min((high * share for share in SHARES), key=lambda b: error(low, b)) if high > 0 else high
        low = min((low * share for share in SHARES), key=lambda a: error(a, high)) if low < 0 else low
    return float(low), float(high)


def _least_divergence(values: Array, weights: Array, low: float, high: float) -> tuple[float, float]:
    """The range whose 8-bit histogram says most of the whole one: least KL(P || Q) (Migacz, GTC 2017), both ends together.

    P has what is clipped in its outermost bins; Q is P's inside in 256 equal steps, each spread over its bins that were seen. Zeros
    do not count: every range has them exactly, and behind a ReLU they fill one bin, whose step would best be a narrow one.
    """
    other = values != 0
    counts, edges = np.histogram(values[other], BINS, (low, high), weights=weights[other])
    best, found = float("inf"), (low, high)
    for share in SHARES:
        a, b = np.searchsorted(edges, (low * share, high * share))
        a, b = max(int(a) - (low * share < edges[min(a, BINS)]), 0), min(int(b), BINS)
        if b - a < LEVELS + 1:
            continue
        inside = counts[a:b]
        p = inside.copy()
        p[0] += counts[:a].sum()
        p[-1] += counts[b:].sum()
        step = np.arange(b - a) * (LEVELS + 1) // (b - a)
        seen = inside > 0
        total = np.bincount(step, inside, LEVELS + 1)
        n = np.maximum(np.bincount(step, seen, LEVELS + 1), 1)
        q = np.where(seen, (total / n)[step], 0.0)
        if not q.sum():
            continue
        p, q = p / p.sum(), q / q.sum()
        there = p > 0
        divergence = float((p[there] * np.log(p[there] / np.maximum(q[there], 1e-9))).sum())
        if divergence < best - 1e-12:
            best, found = divergence, (float(edges[a]), float(edges[b]))
    return min(found[0], 0.0), max(found[1], 0.0)
