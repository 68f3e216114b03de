"""Gaussian initialisation, counted cost and undisturbed looking."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kdsearch.ops.cost import multiply_accumulates, parameters
from kdsearch.ops.init import fresh_init, gaussian_init
from kdsearch.ops.undisturbed import undisturbed


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.GroupNorm(2, 64), nn.Flatten(), nn.Linear(64, 50))


def test_gaussian_init_is_what_it_says_and_repeats() -> None:
    a, b = net(), net()
    a(torch.randn(4, 3, 3, 3))  # moves the batch statistics
    before = torch.get_rng_state()
    for module in (a, b):
        gaussian_init(module, torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), before)
    for name, tensor in a.state_dict().items():
        assert torch.equal(tensor, b.state_dict()[name]), name
    weights = a[0].weight.detach().numpy().ravel(), a[4].weight.detach().numpy().ravel()
    for weight in weights:
        assert abs(weight.mean()) < 5 / math.sqrt(weight.size)
        assert abs(weight.std() - 1) < 5 / math.sqrt(2 * weight.size)
    assert not np.array_equal(weights[0][:100], weights[1][:100])
    for part in (a[0], a[4]):
        assert not part.bias.any()
    for norm in (a[1], a[2]):
        assert (norm.weight == 1).all()
        assert (norm.bias == 0).all()
    assert (a[1].running_var == 1).all()
    assert (a[1].running_mean == 0).all()


def test_fresh_init_draws_every_part_anew_as_its_class_does() -> None:
    torch.manual_seed(0)
    trained = nn.Sequential(net(), nn.MultiheadAttention(8, 2))
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.fill_(7.0)
    trained[0][1].running_mean.fill_(7.0)
    before = torch.get_rng_state()
    fresh_init(trained, 3)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any((tensor == 7).any() for tensor in trained.state_dict().values())
    assert trained[0][0].weight.abs().max() <= 1 / math.sqrt(27)  # torch's own: uniform, 1 / sqrt(fan in)
    again = nn.Sequential(net(), nn.MultiheadAttention(8, 2))
    fresh_init(again, 3)
    assert all(tensor.equal(again.state_dict()[name]) for name, tensor in trained.state_dict().items())


def test_macs_of_convolutions_groups_and_linear() -> None:
    module = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 25, 7))
    found = multiply_accumulates(module, [torch.zeros(1, 4, 5, 5)])
    assert found == 25 * 8 * 2 * 9 + 8 * 25 * 7
    assert next(module.parameters()).device.type == "cpu"


class Attention(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(x, x, x)


def test_macs_of_fused_attention() -> None:
    found = multiply_accumulates(Attention(), [torch.zeros(1, 2, 6, 4)])
    assert found == 2 * 2 * 6 * 6 * 4  # heads x (Q K^T and A V)


def test_shared_weights_count_once() -> None:
    layer = nn.Linear(3, 3)
    assert parameters(nn.Sequential(layer, layer)) == 12


def test_undisturbed_restores_also_after_an_error() -> None:
    module = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5))
    module[0].eval()
    state, rng = {k: v.clone() for k, v in module.state_dict().items()}, torch.get_rng_state()
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))

    def look_and_fail() -> None:
        with undisturbed(module):
            assert module[0].training
            module(x)
            assert not torch.equal(module[0].running_mean, state["0.running_mean"])
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        look_and_fail()
    assert [part.training for part in module] == [False, True]
    assert torch.equal(torch.get_rng_state(), rng)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, state[name]), name


class Running(nn.Module):
    """Keeps a mean by another tensor, not in place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        return x - self.mean


def test_undisturbed_restores_a_buffer_that_is_replaced() -> None:
    module = Running()
    before = module.mean
    with undisturbed(module):
        module(torch.ones(4, 3))
    assert module.mean is before
    assert module.mean.tolist() == [0.0, 0.0, 0.0]
