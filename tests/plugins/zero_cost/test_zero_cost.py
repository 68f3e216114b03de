"""Scores of size and of activation codes; what the plugin registers."""

import math
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from kdsearch_plugins import zero_cost
from kdsearch_plugins.zero_cost.activation import Nwot, Swap, SwapReg, SwapRegOptions, activation_codes
from kdsearch_plugins.zero_cost.size import L2Norm, Layers, Macs, Params
from torch import Tensor, nn
from torch.nn import functional as F
from zero_cost_toys import linear, token_model, token_probe, two_input_model, two_input_probe, vector_model

from kdsearch.errors import PluginError
from kdsearch.hooks import Register
from kdsearch.kinds import Cost, NoOptions
from kdsearch.testing.models import noise_batch, small_resnet
from kdsearch.testing.probe import HandProbe
from kdsearch.testing.proxy import ProxyContract


class TestParams(ProxyContract):
    proxy = Params


class TestMacs(ProxyContract):
    proxy = Macs


class TestNwot(ProxyContract):
    proxy = Nwot


class TestSwap(ProxyContract):
    proxy = Swap


class TestL2Norm(ProxyContract):
    proxy = L2Norm


class TestSwapReg(ProxyContract):
    proxy = SwapReg


NAMES = {
    "params",
    "macs",
    "layers",
    "l2_norm",
    "snip",
    "plain",
    "grad_norm",
    "grasp",
    "fisher",
    "synflow",
    "synflow_bn",
    "jacob_cov",
    "epe_nas",
    "nwot",
    "swap",
    "swap_reg",
    "zen",
    "zico",
    "expressivity",
    "progressivity",
    "trainability",
    "complexity",
    "az_nas",
}
UNITS = linear([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
CODES_110_101 = torch.tensor([[1.0, 1, -1], [1, -1, 1]])


def test_params_and_macs_are_logs_of_the_counts() -> None:
    student, probe = small_resnet((4,), 1, classes=5), HandProbe(noise_batch())
    params = 4 * 3 * 9 + 8 + 2 * (4 * 4 * 9 + 8) + 4 * 5 + 5
    macs = 64 * (4 * 3 * 9) + 2 * 64 * (4 * 4 * 9) + 4 * 5
    assert Params(NoOptions()).score(student, probe) == pytest.approx(math.log(params), abs=1e-12)
    assert Macs(NoOptions()).score(student, probe) == pytest.approx(math.log(macs), abs=1e-12)


def test_a_models_own_formula_is_used() -> None:
    student = small_resnet()
    student.cost_of = lambda: Cost(params=100, macs=1000)
    assert Params(NoOptions()).score(student, HandProbe(noise_batch())) == math.log(100)
    assert Macs(NoOptions()).score(student, HandProbe(noise_batch())) == math.log(1000)


def test_a_model_without_weights_is_the_worst() -> None:
    assert Params(NoOptions()).score(vector_model(nn.ReLU()), HandProbe({"x": CODES_110_101})) == -math.inf


def test_nwot_of_two_samples_computed_on_paper() -> None:
    student = vector_model(nn.Sequential(UNITS, nn.ReLU()))
    assert Nwot(NoOptions()).score(student, HandProbe({"x": CODES_110_101})) == pytest.approx(math.log(8), abs=1e-9)


def test_nwot_of_equal_samples_is_the_worst() -> None:
    student = vector_model(nn.Sequential(UNITS, nn.ReLU()))
    assert Nwot(NoOptions()).score(student, HandProbe({"x": CODES_110_101[[0, 0]]})) == -math.inf


def test_nwot_is_the_log_determinant_by_hand() -> None:
    student, probe = small_resnet(depth=2), HandProbe(noise_batch(6))
    kernel = np.zeros((6, 6))
    for layer in activation_codes(student, probe):
        c = layer.numpy().astype(np.float64)
        kernel += c @ c.T + (1 - c) @ (1 - c).T
    assert Nwot(NoOptions()).score(student, probe) == pytest.approx(np.linalg.slogdet(kernel)[1], rel=1e-12)


def test_a_unit_is_on_above_zero() -> None:
    inputs = torch.tensor([[-1.0, -1e-6, 0.0, 1e-6]])
    (layer,) = activation_codes(vector_model(nn.ReLU()), HandProbe({"x": inputs}))
    assert layer.tolist() == [[False, False, False, True]]


class ByFunctions(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.silu(torch.relu(F.relu6(x).clone().relu_()))


@pytest.mark.parametrize(
    ("module", "rectifiers"),
    [(ByFunctions(), 4)]
    + [
        (nn.Sequential(UNITS, kind), 1)
        for kind in (nn.ReLU(True), nn.ReLU6(), nn.Hardswish(), nn.GELU(), nn.SiLU(), nn.PReLU(), nn.ELU(), nn.Mish())
    ]
    + [(nn.Sequential(UNITS, nn.Sigmoid(), nn.Hardsigmoid()), 0)],
)
def test_every_rectifier_counts_as_module_or_function(module: nn.Module, rectifiers: int) -> None:
    layers = activation_codes(vector_model(module), HandProbe({"x": CODES_110_101}))
    assert len(layers) == rectifiers
    assert all(torch.equal(layer, CODES_110_101 > 0) for layer in layers[:1])


def test_a_model_without_rectifier_is_the_worst() -> None:
    assert Nwot(NoOptions()).score(vector_model(UNITS), HandProbe({"x": CODES_110_101})) == -math.inf
    assert Swap(NoOptions()).score(vector_model(UNITS), HandProbe({"x": CODES_110_101})) == 0.0


def test_swap_counts_distinct_patterns_of_units_over_samples() -> None:
    student, probe = small_resnet(depth=2), HandProbe(noise_batch(70))  # more samples than bits of a word
    patterns = set()
    for layer in activation_codes(student, probe):
        patterns |= {tuple(unit) for unit in layer.numpy().T.tolist()}
    assert Swap(NoOptions()).score(student, probe) == len(patterns)


class Folded(nn.Module):
    """Two frames a sample by one layer, an MLP of positions, and a head: rows are 2 B, 3 and B."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("places", torch.ones(3, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        frames = x.reshape(-1, 2).relu()
        return (frames.reshape(len(x), 4) - 0.5).relu().sum(1, keepdim=True) + self.places.relu().sum()


def test_rows_that_are_frames_or_positions_are_read_as_samples_or_not_at_all() -> None:
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    student, probe = vector_model(Folded()), HandProbe({"x": x})
    codes = np.concatenate([x.numpy() > 0, np.maximum(x.numpy(), 0) - 0.5 > 0], 1)
    kernel = (codes[:, None] == codes[None]).sum(-1)
    assert Nwot(NoOptions()).score(student, probe) == pytest.approx(np.linalg.slogdet(kernel)[1])
    assert Swap(NoOptions()).score(student, probe) == len({tuple(unit) for unit in codes.T.tolist()})


def test_swap_tells_patterns_apart_that_differ_in_the_last_of_many_samples() -> None:
    inputs = torch.ones(70, 3)
    inputs[69, 0] = -1.0
    inputs[0, 1] = -1.0
    assert Swap(NoOptions()).score(vector_model(nn.ReLU()), HandProbe({"x": inputs})) == 3.0


def test_l2_norm_is_the_sum_of_the_layers_norms() -> None:
    student = vector_model(nn.Sequential(linear([[3.0, 4.0]], bias=True), nn.BatchNorm1d(1), linear([[2.0]])))
    assert L2Norm(NoOptions()).score(student, HandProbe({"x": torch.zeros(2, 2)})) == pytest.approx(7.0, abs=1e-12)


def test_layers_are_counted_by_their_weights() -> None:
    parts = (linear([[3.0, 4.0]], bias=True), nn.BatchNorm1d(1), nn.ReLU(), linear([[2.0]]))
    student = vector_model(nn.Sequential(*parts))
    assert Layers(NoOptions()).score(student, HandProbe({"x": torch.zeros(2, 2)})) == 2.0
    recurrent = vector_model(nn.LSTM(3, 4, num_layers=2, bidirectional=True))
    assert Layers(NoOptions()).score(recurrent, HandProbe({"x": torch.zeros(2, 3)})) == 8.0  # two a layer and direction


class TestLayers(ProxyContract):
    proxy = Layers


def test_swap_reg_falls_with_the_distance_from_a_size() -> None:
    """3 distinct patterns and 9 parameters: ln 3 - (0.009 - mu)^2 / sigma."""
    student, probe = vector_model(nn.Sequential(UNITS, nn.ReLU())), HandProbe({"x": CODES_110_101})
    assert Swap(NoOptions()).score(student, probe) == 3.0
    found = SwapReg(SwapRegOptions(mu=1.009, sigma=0.5)).score(student, probe)
    assert found == pytest.approx(math.log(3) - 2.0, abs=1e-9)
    assert SwapReg(SwapRegOptions(mu=1.009, sigma=1e-9)).score(student, probe) == pytest.approx(math.log(3) - 1e9)


def test_swap_reg_takes_mu_and_sigma_from_the_sample_where_they_are_not_given() -> None:
    student, probe = vector_model(nn.Sequential(UNITS, nn.ReLU())), HandProbe({"x": CODES_110_101})
    sample = [vector_model(nn.Linear(width, 1, bias=False)) for width in (4000, 8000)]  # mean 6, variance 4
    proxy = SwapReg(SwapRegOptions())
    with pytest.raises(PluginError, match="mu and sigma"):
        proxy.score(student, probe)
    proxy.fit(sample, probe)
    assert proxy.score(student, probe) == pytest.approx(math.log(3) - (0.009 - 6) ** 2 / 4, abs=1e-9)
    half = SwapReg(SwapRegOptions(mu=0.009))
    half.fit(sample, probe)
    assert half.score(student, probe) == pytest.approx(math.log(3), abs=1e-9)
    same = SwapReg(SwapRegOptions())
    same.fit(sample[:1], probe)
    assert same.score(sample[0], HandProbe({"x": torch.zeros(2, 4000)})) == -math.inf  # no rectifier


@pytest.mark.parametrize("proxy", [Params, Macs, L2Norm, Nwot, Swap])
@pytest.mark.parametrize(("model", "probe"), [(token_model, token_probe), (two_input_model, two_input_probe)])
def test_tokens_and_several_inputs(proxy: Any, model: Callable[..., Any], probe: Callable[[], HandProbe]) -> None:
    assert math.isfinite(proxy(NoOptions()).score(model(), probe()))


def test_registers_what_exists() -> None:
    register = Register()
    zero_cost.kdsearch_register(register)
    assert {entry.name for entry in register.entries} == NAMES
    for entry in register.entries:
        module, _, name = entry.target.partition(":")
        assert hasattr(import_module(module), name)
