"""Calibrated rounding keeps outputs near: sums against torch's own unfolding, errors against every other rounding tried."""

import itertools

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from kdsearch.builtin.int4 import rounding
from kdsearch.builtin.int4.blocks import Blocks, fit
from kdsearch.builtin.int4.rounding import (
    Read,
    calibrate,
    calibrate_all,
    input_rows,
    mean_error,
    moments,
    output_error,
    stretches,
    unfold,
)


def second_of(x):
    return (x.T @ x / len(x))[None]


@settings(max_examples=60)
@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    groups=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 99),
)
def test_windows_times_weights_are_the_convolution(kernel, strides, dilations, pads, groups, seed):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 4, 7, 6, generator=rng, dtype=torch.float64)
    w = torch.randn(8, 4 // groups, *kernel, generator=rng, dtype=torch.float64)
    top, left, bottom, right = pads
    padded = torch.nn.functional.pad(x, (left, right, top, bottom))
    expected = torch.nn.functional.conv2d(padded, w, None, strides, 0, dilations, groups)
    windows = unfold(x.numpy(), kernel, strides, pads, dilations, groups)
    rows = w.numpy().reshape(groups, 8 // groups, -1)
    found = windows @ rows.swapaxes(1, 2)  # (G, N * positions, 8 / G)
    assert np.allclose(found.transpose(1, 0, 2).reshape(-1, 8), expected.movedim(1, -1).reshape(-1, 8).numpy())


def test_drawn_windows_are_some_of_all_windows():
    x = np.random.default_rng(0).normal(size=(3, 2, 6, 6))
    every = {row.tobytes() for row in unfold(x, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))[0]}
    some = unfold(x, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), most=20, rng=np.random.default_rng(1))[0]
    assert len(some) == 20
    assert {row.tobytes() for row in some} < every


@pytest.mark.parametrize(
    ("pad", "begin", "end"), [("SAME_UPPER", 0, 1), ("SAME_LOWER", 1, 0), ("VALID", 0, 0), (None, 0, 0)]
)
def test_automatic_padding(pad, begin, end):
    """Size 6, kernel 3, stride 2: SAME needs one row of zeros in all; SAME_UPPER puts the odd one at the end."""
    options = {} if pad is None else {"auto_pad": pad}
    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=[2], **options)
    x = np.arange(1.0, 7)[None, None]
    found = input_rows(Read("w", ir.from_proto(node), 1, (1, 1, 3)), x, 99, np.random.default_rng(0))[0]
    padded = np.pad(x[0, 0], (begin, end))
    assert found.tolist() == [padded[i : i + 3].tolist() for i in range(0, len(padded) - 2, 2)]


def test_rows_of_matrix_products():
    x, rng = np.arange(24.0).reshape(2, 3, 4), np.random.default_rng(0)
    right = helper.make_node("MatMul", ["x", "w"], ["y"])
    assert input_rows(Read("w", ir.from_proto(right), 1, (4, 5)), x, 99, rng)[0].tolist() == x.reshape(6, 4).tolist()
    left = helper.make_node("MatMul", ["w", "x"], ["y"])
    assert (
        input_rows(Read("w", ir.from_proto(left), 0, (5, 3)), x, 99, rng)[0].tolist()
        == x.swapaxes(1, 2).reshape(8, 3).tolist()
    )
    turned = helper.make_node("Gemm", ["x", "w"], ["y"], transA=1)
    assert input_rows(Read("w", ir.from_proto(turned), 1, (2, 5)), x[:, 0], 99, rng)[0].tolist() == x[:, 0].T.tolist()


@settings(max_examples=40)
@given(
    seed=st.integers(0, 999),
    rows=st.integers(1, 6),
    length=st.integers(2, 20),
    block=st.sampled_from([4, 8, 16]),
    symmetric=st.booleans(),
    samples=st.integers(1, 40),
)
def test_never_worse_than_the_nearest_and_zeros_stay(seed, rows, length, block, symmetric, samples):
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(rows, length)) * (rng.random((rows, length)) > 0.2)
    x = rng.normal(size=(samples, length)) @ rng.normal(size=(length, length)) + rng.normal(size=length)
    nearest = fit(w.astype(np.float32), block, 4, symmetric)
    made = calibrate(w, nearest, second_of(x))
    error, before = output_error(w, made, second_of(x)), output_error(w, nearest, second_of(x))
    assert (error <= before).all()
    direct = ((x @ (w - made.values()).T) ** 2).mean(0)  # the outputs themselves
    assert np.allclose(error, direct, rtol=1e-6, atol=1e-9)
    assert (made.values()[w == 0] == 0).all()
    low, high = (-8, 7) if symmetric else (0, 15)
    assert low <= made.q.min() <= made.q.max() <= high
    assert made.q.dtype == nearest.q.dtype


def plainly(w, nearest, second, damping=0.01, sweeps=4):
    """GPTQ and the sweeps a number at a time, with the inverse written out: what the blocked form has to give. (levels, scales)."""
    h = second + damping * second.diagonal().mean() * np.eye(len(second))
    block, scale = nearest.block, nearest.scale.astype(np.float64).copy()
    low, high = (-8, 7) if nearest.zero is None else (0, 15)

    def nearest_level(r, j, target):
        zero = 0 if nearest.zero is None else int(nearest.zero[r, j // block])
        if w[r, j] == 0:
            return 0.0
        return np.clip(np.rint(target / scale[r, j // block]), low - zero, high - zero)

    level, order = np.zeros_like(w), np.argsort(-h.diagonal(), kind="stable")
    for r in range(len(w)):
        left = w[r].copy()
        for n, j in enumerate(order):
            level[r, j] = nearest_level(r, j, left[j])
            others = order[n:]
            inverse = np.linalg.inv(h[np.ix_(others, others)])
            error = (left[j] - level[r, j] * scale[r, j // block]) / inverse[0, 0]
            left[others[1:]] -= error * inverse[0, 1:]
    for r in range(len(w)):
        for _ in range(sweeps):
            for start in range(0, w.shape[1], block):
                columns = np.arange(start, min(start + block, w.shape[1]))

                def error(r=r):
                    return w[r] - level[r] * scale[r, np.arange(w.shape[1]) // block]

                part = level[r, columns]
                power = part @ h[np.ix_(columns, columns)] @ part
                step = (error() @ h[:, columns] @ part) / power if power > 0 else 0.0
                if abs(scale[r, start // block] + step) >= 0.1 * abs(scale[r, start // block]):
                    scale[r, start // block] += step
                for j in columns:
                    here = level[r, j] * scale[r, start // block]
                    level[r, j] = nearest_level(r, j, here + error() @ h[:, j] / h[j, j])
    return level, scale


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("rows", "length", "block", "seed"), [(5, 40, 16, 0), (3, 31, 8, 1), (4, 20, 32, 2)])
def test_blocks_of_columns_give_what_one_number_at_a_time_gives(rows, length, block, seed, symmetric):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(60, length // 2)) @ rng.normal(size=(length // 2, length)) + rng.normal(size=(60, length))
    w = (rng.normal(size=(rows, length)) * (rng.random((rows, length)) > 0.1)).astype(np.float32).astype(np.float64)
    nearest = fit(w.astype(np.float32), block, 4, symmetric)
    second = second_of(x)
    level, scale = plainly(w, nearest, second[0])
    made = calibrate(w, nearest, second)
    taken = np.abs(made.scale / nearest.scale - 1).max(1) > 0  # rows that calibration made better
    assert taken.all()
    zero = 0 if made.zero is None else made.zero[:, np.arange(length) // block]
    assert ((made.q - zero) == level).all()
    assert np.allclose(made.scale, scale, rtol=1e-6)


@pytest.mark.parametrize(("width", "lengths"), [(6, [6]), (5, [4, 2]), (2, [2, 2, 2])])
def test_moments_of_a_large_mean_are_exact(width, lengths, monkeypatch):
    """Taken batch by batch, in fp32: against numpy's covariance of all rows at once."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6)) + 1e4).astype(np.float32)
    tensor = onnx.numpy_helper.from_array(np.eye(6, dtype=np.float32), "w")
    infos = [helper.make_tensor_value_info(name, 1, ["n", 6]) for name in "xy"]
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    model = helper.make_model(helper.make_graph([node], "g", infos[:1], infos[1:], [tensor]), ir_version=10)
    feeds = [{"x": part} for part in np.split(x, [7, 8, 200])]
    monkeypatch.setattr(rounding, "WIDTH", width)
    found = moments(model, [Read("w", ir.from_proto(node), 1, (6, 6))], feeds, block=2)["w"]
    wide = x.astype(np.float64)
    assert found.mean[0] == pytest.approx(wide.mean(0), rel=1e-12)
    assert [each.shape for each in found.covariance] == [(1, each, each) for each in lengths]
    start = 0
    for covariance, second, length in zip(found.covariance, found.second(), lengths, strict=True):
        part = wide[:, start : start + length]
        assert covariance[0] == pytest.approx(np.cov(part.T, ddof=0), rel=1e-5, abs=1e-6)
        assert second[0] == pytest.approx(part.T @ part / 300, rel=1e-12)
        start += length


@given(length=st.integers(1, 3000), block=st.integers(1, 128), width=st.integers(1, 500))
def test_stretches_are_whole_blocks_of_a_row_and_about_equal(length, block, width):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounding, "WIDTH", width)
        found = stretches(length, block)
    assert sum(found) == length
    assert all(each == found[0] and each % block == 0 for each in found[:-1])
    assert 0 < found[-1] <= found[0] < width + block
    assert found == [length] or length > width


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_long_row_is_rounded_stretch_by_stretch(symmetric):
    """Of 48, 48 and 24 weights, blocks of 16, in two groups of rows."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(6, 120))
    rows = [rng.normal(size=(200, 5)) @ rng.normal(size=(5, 120)) + 0.1 * rng.normal(size=(200, 120)) for _ in "ab"]
    second = [
        np.stack([each[:, a:b].T @ each[:, a:b] / 200 for each in rows]) for a, b in ((0, 48), (48, 96), (96, 120))
    ]
    nearest = fit(w.astype(np.float32), 16, 4, symmetric)
    made = calibrate_all(w, nearest, second)
    assert (made.q.shape, made.q.dtype, made.scale.shape) == (nearest.q.shape, nearest.q.dtype, nearest.scale.shape)
    for (a, b), each in zip(((0, 48), (48, 96), (96, 120)), second, strict=True):
        blocks = slice(a // 16, -(-b // 16))
        zero = None if nearest.zero is None else nearest.zero[:, blocks]
        alone = calibrate(w[:, a:b], Blocks(nearest.q[:, a:b], nearest.scale[:, blocks], zero, 16), each)
        assert (made.q[:, a:b] == alone.q).all()
        assert (made.scale[:, blocks] == alone.scale).all()
    for group, inputs in zip((slice(0, 3), slice(3, 6)), rows, strict=True):
        error = [((inputs @ (w - each.values())[group].T) ** 2).mean() for each in (made, nearest)]
        assert error[0] < 0.5 * error[1]


def test_moments_that_rounding_left_indefinite_are_damped_until_they_factor():
    """One direction has a variance of minus the mean of all: a hundredth of that is not enough, ten times it is."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(16, 16)))[0]
    second = (turn * np.r_[-1.0, np.full(15, 17 / 15)]) @ turn.T
    w = rng.normal(size=(4, 16))
    made = calibrate(w, fit(w.astype(np.float32), 16), second[None])
    assert np.isfinite(made.values()).all()
    assert np.abs(made.values() - w).max() < np.abs(w).max()


def test_far_better_where_inputs_are_correlated():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 6)) @ rng.normal(size=(6, 64)) + 0.1 * rng.normal(size=(500, 64)) + 1
    w = rng.normal(size=(16, 64))
    nearest = fit(w.astype(np.float32), 32)
    made = calibrate(w, nearest, second_of(x))
    assert output_error(w, made, second_of(x)).mean() < 0.1 * output_error(w, nearest, second_of(x)).mean()


def test_no_single_integer_can_be_moved_to_gain():
    """After the sweeps every integer is at its best given the others: tried one by one."""
    rng = np.random.default_rng(3)
    w, x = rng.normal(size=(2, 8)), rng.normal(size=(30, 8)) @ rng.normal(size=(8, 8))
    made = calibrate(w, fit(w.astype(np.float32), 8), second_of(x))
    best = output_error(w, made, second_of(x))
    for row, column, move in itertools.product(range(2), range(8), (-1, 1)):
        q = made.q.copy()
        q[row, column] += move
        if -8 <= q[row, column] <= 7:
            tried = type(made)(q, made.scale, made.zero, made.block)
            # the damping and the last sweep of the scales leave a little
            assert output_error(w, tried, second_of(x))[row] > 0.97 * best[row]


def test_near_the_best_of_all_roundings():
    """4 weights, 2 bits: all 4^4 integers tried with the scale that is best for each by least squares."""
    rng = np.random.default_rng(1)
    nearest_errors, errors, least = [], [], []
    for _ in range(40):
        w, x = rng.normal(size=(1, 4)), rng.normal(size=(20, 4)) @ rng.normal(size=(4, 4))
        second = second_of(x)
        nearest = fit(w.astype(np.float32), 4, bits=2)
        nearest_errors.append(output_error(w, nearest, second)[0])
        errors.append(output_error(w, calibrate(w, nearest, second, bits=2), second)[0])
        best = np.inf
        for q in itertools.product(range(-2, 2), repeat=4):
            level = np.asarray(q, float)
            power = level @ second[0] @ level
            scale = (w[0] @ second[0] @ level) / power if power else 0
            error = w[0] - scale * level
            best = min(best, error @ second[0] @ error)
        least.append(best)
    assert (np.asarray(errors) >= np.asarray(least) - 1e-9).all()
    share_of_gain = (np.sum(nearest_errors) - np.sum(errors)) / (np.sum(nearest_errors) - np.sum(least))
    assert share_of_gain > 0.75


def test_groups_are_apart():
    rng = np.random.default_rng(2)
    w, x = rng.normal(size=(6, 8)), rng.normal(size=(2, 40, 8)) @ rng.normal(size=(2, 8, 8))
    second = x.swapaxes(1, 2) @ x / 40
    nearest = fit(w.astype(np.float32), 8)
    both = calibrate(w, nearest, second)
    for g in (0, 1):
        rows = slice(3 * g, 3 * g + 3)
        part = type(nearest)(nearest.q[rows], nearest.scale[rows], None, 8)
        order_is_shared = output_error(w[rows], calibrate(w[rows], part, second[g : g + 1]), second[g : g + 1])
        assert (output_error(w, both, second)[rows] <= 1.5 * order_is_shared + 1e-12).all()


def test_mean_error_is_what_outputs_lack():
    rng = np.random.default_rng(4)
    w, x = rng.normal(size=(3, 8)), rng.normal(size=(50, 8)) + 1
    blocks = fit(w.astype(np.float32), 8)
    lacking = (x @ w.T - x @ blocks.values().T.astype(float)).mean(0)
    assert mean_error(w, blocks, x.mean(0)[None]) == pytest.approx(lacking)


def test_inputs_that_are_all_zero_change_nothing():
    w = np.random.default_rng(5).normal(size=(2, 8))
    nearest = fit(w.astype(np.float32), 8)
    made = calibrate(w, nearest, np.zeros((1, 8, 8)))
    assert np.isfinite(made.values()).all()
    assert (made.q == nearest.q).all()
    assert (made.scale == nearest.scale).all()
