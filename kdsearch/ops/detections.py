"""Detections: (B, K, 6) numbers x1, y1, x2, y2, score, class, the best first; rows of class -1 are none.

Two files that agree in every number may still order or keep two of them differently where scores or overlaps are equal but for
rounding. So they are compared as sets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

SPARED = 1 / 40  # of the detections: those that stand at a threshold, and whatever they suppress, may be any
AT_ONCE = 256  # rows that are compared with all others
OVERLAP = 0.5  # intersection over union from which two of one class are one
Array = NDArray[Any]


def scales(of: Array) -> tuple[float, float]:
    """Of coordinates and of scores of detections (n, 6): their standard deviations, at least a hundredth of root mean squares."""
    return _scale(of[:, :4]), _scale(of[:, 4])


def _scale(values: Array) -> float:
    if not values.size:
        return 0.0
    return max(float(values.std()), math.sqrt(float(np.square(values).mean())) / 100)


def gaps(of: Array, among: Array, scaled: Sequence[float] | None = None) -> Array:
    """(n,) of each detection in `of` (B, K, 6) the distance to the nearest of its class in the same sample of `among` (B, M, 6).

    That is the largest difference of a coordinate or of the score, each on its scale; inf where there is none.
    """
    of, among = of.astype(np.float64), among.astype(np.float64)
    boxes, scores = scaled or scales(_all(of))
    size = np.array([boxes or 1.0] * 4 + [scores or 1.0])
    found = [np.empty(0)]
    for own, other in _blocks(of, among):
        far = np.abs(own[:, None, :5] - other[None, :, :5]) / size
        far = np.where(own[:, None, 5] == other[None, :, 5], far.max(2, initial=0.0), np.inf)
        found.append(far.min(1, initial=np.inf))
    distances = np.concatenate(found)
    return np.where(np.isnan(distances), np.inf, distances)


def furthest(distances: Array) -> float:
    """The largest distance but for the share that is spared; 0 of none."""
    if not distances.size:
        return 0.0
    return float(np.sort(distances)[min(len(distances) - 1, math.floor(len(distances) * (1 - SPARED)))])


def found_again(of: Array, among: Array) -> NDArray[np.bool_]:
    """(n,) whether each detection in `of` (B, K, 6) has one of its class in `among` (B, M, 6) that it overlaps by half."""
    found = [np.empty(0, bool)]
    for own, other in _blocks(of.astype(np.float64), among.astype(np.float64)):
        same = (own[:, None, 5] == other[None, :, 5]) & (_overlap(own, other) >= OVERLAP)
        found.append(same.any(1))
    return np.concatenate(found)


def _blocks(of: Array, among: Array) -> Iterator[tuple[Array, Array]]:
    """What is there of each sample, some rows of `of` at a time: thousands with thousands at once would take gigabytes."""
    for own, other in zip(map(_all, of), map(_all, among), strict=True):
        for start in range(0, len(own), AT_ONCE):
            yield own[start : start + AT_ONCE], other


def _all(rows: Array) -> Array:
    return rows[rows[..., 5] >= 0]


def _overlap(a: Array, b: Array) -> Array:
    """(n, m) intersections over unions; of a box without area 1 with its equal, else 0."""
    (low_a, high_a), (low_b, high_b) = (
        (np.minimum(each[:, :2], each[:, 2:4]), np.maximum(each[:, :2], each[:, 2:4])) for each in (a, b)
    )
    inner = np.minimum(high_a[:, None], high_b[None]) - np.maximum(low_a[:, None], low_b[None])
    shared = inner.clip(0).prod(2)
    whole = (high_a - low_a).prod(1)[:, None] + (high_b - low_b).prod(1)[None] - shared
    equal = (a[:, None, :4] == b[None, :, :4]).all(2)
    ratio: Array = np.divide(shared, whole, out=equal.astype(np.float64), where=whole > 0)
    return ratio
