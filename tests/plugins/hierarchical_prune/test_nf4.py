"""4-bit round trips: levels, errors, bytes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdsearch_plugins.hierarchical_prune.nf4 import (
    NF4,
    dequantize,
    file_bytes,
    int4_levels,
    quantize,
    rounded,
    weight_bytes,
)
from torch import nn


def trip(weight, **options):
    codes, absmax = quantize(weight, **options)
    return dequantize(codes, absmax, weight.shape, options.get("block", 64), options.get("levels", NF4))


def test_levels_of_a_block():
    weight = torch.zeros(64)
    weight[:3] = torch.tensor([1.0, 0.5, -0.25])
    back = trip(weight)
    assert back[:4].tolist() == pytest.approx([1.0, 0.44070983, -0.28444138, 0.0])
    assert (back[3:] == 0).all()
    assert (trip(torch.zeros(3, 64)) == 0).all()


@given(seed=st.integers(0, 999), rows=st.integers(1, 5), width=st.integers(1, 90), scale=st.floats(1e-6, 1e6))
def test_the_error_is_bounded_by_the_widest_gap(seed, rows, width, scale):
    torch.manual_seed(seed)
    weight = scale * torch.randn(rows, width)
    flat, back = weight.flatten().numpy(), trip(weight).flatten().numpy()
    for at in range(0, flat.size, 64):
        block = flat[at : at + 64]
        assert np.abs(block - back[at : at + 64]).max() <= np.abs(block).max() * 0.1520


def test_each_weight_takes_its_nearest_level():
    torch.manual_seed(0)
    weight = torch.randn(7, 64)
    levels = NF4.double().numpy()
    for row, back in zip(weight.double().numpy(), trip(weight).double().numpy(), strict=True):
        top = np.abs(row).max()
        nearest = levels[np.abs(row[:, None] / top - levels).argmin(1)] * top
        assert np.allclose(back, nearest, atol=1e-6)


def test_int4_is_symmetric():
    weight = torch.linspace(-1, 1, 64)
    back = trip(weight, levels=int4_levels())
    assert torch.allclose(back, (weight * 7).round() / 7, atol=1e-6)


def test_bytes():
    assert weight_bytes(4096 * 4096, 4) == 9_437_184
    net = nn.Sequential(nn.Linear(64, 32), nn.LayerNorm(32))
    assert file_bytes(net, "fp32") == 4 * (64 * 32 + 32 + 64)
    assert file_bytes(net, "nf4") == 64 * 32 // 2 + 4 * 32 + 4 * (32 + 64)


def test_only_linear_layers_are_rounded():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Linear(4, 8))
    made = rounded(net)
    assert torch.equal(made[0].weight, net[0].weight)
    assert torch.equal(made[1].bias, net[1].bias)
    assert not torch.equal(made[1].weight, net[1].weight)
    assert torch.equal(made[1].weight, trip(net[1].weight))


def test_degradation_is_the_mean_of_relative_drops():
    """Check 11, of the paper's table: GenEval .69 of .71, HPSv2 28.15 of 30.29."""
    from kdsearch_plugins.hierarchical_prune.quality import degradation

    assert degradation((0.71, 30.29), (0.69, 28.15)) == pytest.approx(0.0494, abs=5e-5)
    assert degradation((0.71, 30.29), (0.38, 21.21)) == pytest.approx(0.382, abs=5e-4)
