"""Ranges for 8 bits: against every other one, on values whose best range is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdsearch.builtin.int8.ranges import SHARES, range_of

METHODS = ["minmax", "percentile", "entropy", "mse"]


def error(values, low, high):
    """Mean squared error of rounding to 255 steps, written out."""
    scale = (high - low) / 255
    zero = round(-low / scale)
    q = np.clip(np.round(values.astype(np.float64) / scale) + zero, 0, 255)
    return float((((q - zero) * scale - values) ** 2).mean())


@settings(max_examples=40)
@given(seed=st.integers(0, 999), n=st.integers(1, 400), shift=st.floats(-3, 3), method=st.sampled_from(METHODS))
def test_within_the_values_and_around_zero(seed, n, shift, method):
    values = (np.random.default_rng(seed).normal(shift, 1, n)).astype(np.float32)
    low, high = range_of(values, method)
    assert min(values.min(), 0) - 1e-5 <= low <= 0 <= high <= max(values.max(), 0) + 1e-5
    assert range_of(values, "minmax") == (min(float(values.min()), 0), max(float(values.max()), 0))


def test_an_outlier_is_given_up_where_it_is_rare():
    """Of squared error an outlier at 60 in 20,000 values is worth more than finer steps."""
    rng = np.random.default_rng(0)
    values = np.concatenate([np.abs(rng.normal(0, 1, 20_000)), [60.0]]).astype(np.float32)
    assert range_of(values, "minmax")[1] == 60
    for method, least, most in (("percentile", 3, 3.5), ("entropy", 4, 20), ("mse", 40, 60)):
        low, high = range_of(values, method)
        assert low == 0
        assert least < high < most, method


def test_mse_is_the_least_on_its_grid():
    rng = np.random.default_rng(1)
    values = rng.standard_t(5, 16_000).astype(np.float32)
    low, high = range_of(values, "mse")
    best = error(values, low, high)
    whole = (float(values.min()), float(values.max()))
    assert best < error(values, *whole)
    tried = [error(values, whole[0] * a, whole[1] * b) for a in SHARES for b in SHARES]
    assert best <= min(tried) * 1.01


def test_percentile_is_numpys():
    values = np.random.default_rng(2).normal(0, 1, 50_000).astype(np.float32)
    assert range_of(values, "percentile") == pytest.approx((np.percentile(values, 0.05), np.percentile(values, 99.95)))
    positive = np.abs(values)
    assert range_of(positive, "percentile") == pytest.approx((0, np.percentile(positive, 99.9)))


def test_a_tensor_of_one_value():
    for method in METHODS:
        assert range_of(np.zeros(5, np.float32), method) == (0, 0)
        assert range_of(np.full(5, 3, np.float32), method)[1] == pytest.approx(3, rel=0.01)
