"""Which numbers stand apart, as those of a mask do, and which are merely large."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kdsearch.ops.apart import beyond

RNG = np.random.default_rng(0)
SCORES = RNG.normal(size=(40, 8))


@pytest.mark.parametrize("mask", [-1e4, -1e9, float(np.finfo(np.float32).min)])
@pytest.mark.parametrize("columns", [1, 7])
def test_a_masks_numbers_are_beyond_all_others(mask, columns):
    """One of eight columns, or all but one of them."""
    values = SCORES.copy()
    values[:, -columns:] += mask
    most = beyond(values)
    assert np.array_equal(np.abs(values) > most, np.abs(values) > 100)


@pytest.mark.parametrize(
    "values",
    [
        SCORES,
        1e14 * SCORES,
        np.exp(8 * SCORES),  # a long tail without a gap
        np.concatenate([1e-9 * SCORES[:20], SCORES[20:]]),  # rounding errors beside scores: no mask is so small
        np.concatenate([np.zeros(99), [1e9]]),
        np.array([np.inf, np.nan, -np.inf, 1.0]),
        np.zeros((0, 3)),
    ],
    ids=["scores", "large", "long tail", "rounding", "one", "no numbers", "none"],
)
def test_nothing_is_apart_without_a_gap(values):
    assert beyond(values) == math.inf
