"""Ranges for 8 bits: against every other one, on values whose best range is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from kdsearch.builtin.int8.ranges import SHARES, Seen, observed
from kdsearch.builtin.int8.ranges import range_of as range_of_seen

METHODS = ["minmax", "percentile", "entropy", "mse"]


def range_of(values, method):
    """Of values that each stand for themselves."""
    return range_of_seen(Seen(values, np.ones(len(values))), method)


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

    def at(array, percent):
        return float(np.percentile(array, percent, method="inverted_cdf"))

    assert range_of(values, "percentile") == pytest.approx((at(values, 0.05), at(values, 99.95)))
    positive = np.abs(values)
    assert range_of(positive, "percentile") == pytest.approx((0, at(positive, 99.9)))


@pytest.mark.parametrize("method", ["percentile", "entropy", "mse"])
def test_a_value_may_stand_for_many(method):
    rng = np.random.default_rng(3)
    values, times = rng.normal(1, 2, 3_000).astype(np.float32), rng.integers(1, 6, 3_000)
    repeated = Seen(np.repeat(values, times), np.ones(times.sum()))
    assert range_of_seen(Seen(values, times.astype(float)), method) == pytest.approx(range_of_seen(repeated, method))


def test_zeros_behind_a_relu_do_not_narrow_the_range():
    values = np.maximum(np.random.default_rng(0).normal(size=33_000), 0).astype(np.float32)
    low, high = range_of(values, "entropy")
    assert (low, high) == pytest.approx(range_of(values[values > 0], "entropy"))
    assert error(values, low, high) < 1.5 * error(values, 0, float(values.max()))


def identity():
    """x (1, C, H, W) -> y, the same."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 64, 64]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("is_rare", [False, True])
def test_of_large_maps_the_outermost_values_are_given_up(is_rare):
    """One in 16,384 is far beyond all others: less than a tenth of a percent, though it is the largest of every sample."""
    maps = np.random.default_rng(4).normal(size=(64, 1, 4, 64, 64)).astype(np.float32)
    if is_rare:
        maps[:, 0, 0, 0, 0] = 50
    seen = observed(identity(), [{"x": each} for each in maps], ["y"])["y"]
    assert range_of_seen(seen, "minmax") == (float(maps.min()), float(maps.max()))
    assert range_of_seen(seen, "percentile") == pytest.approx(np.percentile(maps, (0.05, 99.95)), abs=0.2)
    whole = range_of(maps.ravel(), "mse")
    assert range_of_seen(seen, "mse") == pytest.approx(whole, rel=0.2)


def test_of_small_tensors_all_is_kept():
    maps = np.random.default_rng(5).normal(size=(3, 1, 4, 64, 64)).astype(np.float32)
    model = identity()
    del model.graph.input[0].type.tensor_type.shape.dim[:]
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    rows = [{"x": each.ravel()[:100]} for each in maps]
    seen = observed(model, rows, ["x", "y"])
    for name in "xy":
        assert np.array_equal(seen[name].values, np.concatenate([each["x"] for each in rows]))
        assert set(seen[name].weights) == {1}


def test_a_tensor_of_one_value():
    for method in METHODS:
        assert range_of(np.zeros(5, np.float32), method) == (0, 0)
        assert range_of(np.full(5, 3, np.float32), method)[1] == pytest.approx(3, rel=0.01)
