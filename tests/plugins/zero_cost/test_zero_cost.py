"""Training-free scores without a teacher."""

import math
from importlib import import_module

import numpy as np
import pytest
import torch
from kdsearch_plugins import zero_cost
from kdsearch_plugins.zero_cost.activation import Nwot, Swap, activation_codes
from kdsearch_plugins.zero_cost.size import Macs, Params
from kdsearch_plugins.zero_cost.synflow import SynFlow
from torch import Tensor, nn
from torch.nn import functional as F

from kdsearch.hooks import Register
from kdsearch.kinds import Cost, Model, NoOptions
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


class TestSynFlow(ProxyContract):
    proxy = SynFlow


def vector_model(module: nn.Module) -> Model:
    return Model(module, ("x",))


def linear(weight: list[list[float]], bias: bool = False) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight), bias=bias)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
    return layer


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


def test_swap_tells_patterns_apart_that_differ_in_the_last_of_many_samples() -> None:
    inputs = torch.ones(70, 3)
    inputs[69, 0] = -1.0
    inputs[0, 1] = -1.0
    assert Swap(NoOptions()).score(vector_model(nn.ReLU()), HandProbe({"x": inputs})) == 3.0


def test_synflow_computed_on_paper() -> None:
    """One hidden unit fed 1 and -2 of two ones, then 3: R = 9, each of two layers gives 9."""
    student = vector_model(nn.Sequential(linear([[1.0, -2.0]]), linear([[3.0]])))
    probe = HandProbe({"x": torch.zeros(1, 2)})
    assert SynFlow(NoOptions()).score(student, probe) == pytest.approx(math.log(18), abs=1e-12)
    with torch.no_grad():
        for weight in student.module.parameters():
            weight.neg_()
    assert SynFlow(NoOptions()).score(student, probe) == pytest.approx(math.log(18), abs=1e-12)


def test_synflow_equals_the_sum_over_weights_by_autograd() -> None:
    student = small_resnet(depth=2)
    plain = student.copy().module.double().eval()
    for part in plain.modules():
        if isinstance(part, nn.BatchNorm2d):  # in eval mode with these statistics: the identity
            part.eps = 0.0
    with torch.no_grad():
        for weight in plain.parameters():
            weight.abs_()
        plain.classifier.bias.zero_()
    plain(torch.ones(1, 3, 8, 8, dtype=torch.float64)).sum().backward()
    weights = [p for p in plain.parameters() if p.dim() > 1]
    wanted = sum((weight * weight.grad).abs().sum().item() for weight in weights)
    found = SynFlow(NoOptions()).score(student, HandProbe(noise_batch(2)))
    assert found == pytest.approx(math.log(wanted), abs=1e-10)


def test_synflow_beyond_the_range_of_float64() -> None:
    """40 chained layers that each multiply by 1e12: R = 1e480, score ln(40 R)."""
    student = vector_model(nn.Sequential(*(linear([[1e12]]) for _ in range(40))))
    found = SynFlow(NoOptions()).score(student, HandProbe({"x": torch.zeros(1, 1)}))
    exact = sum(math.log(float(torch.tensor(1e12))) for _ in range(40)) + math.log(40)
    assert found == pytest.approx(exact, rel=1e-9)


def test_synflow_leaves_biases_out() -> None:
    student = vector_model(nn.Sequential(linear([[1.0]], bias=True), linear([[3.0]], bias=True)))
    with torch.no_grad():
        for layer in student.module:
            layer.bias.fill_(5.0)
    found = SynFlow(NoOptions()).score(student, HandProbe({"x": torch.zeros(1, 1)}))
    assert found == pytest.approx(math.log(6), abs=1e-12)


def test_synflow_takes_gates_as_open_and_smooth_rectifiers_as_the_identity() -> None:
    """1 through an open gate, times 2: R = 2, and only the last layer moves it. Without gates R = 6, moved by both."""
    gated = vector_model(nn.Sequential(linear([[1.0]]), nn.Hardsigmoid(), linear([[2.0]]), nn.Hardswish()))
    smooth = vector_model(nn.Sequential(linear([[3.0]]), nn.GELU(), linear([[2.0]]), nn.SiLU()))
    probe = HandProbe({"x": torch.zeros(1, 1)})
    assert SynFlow(NoOptions()).score(gated, probe) == pytest.approx(math.log(2), abs=1e-12)
    assert SynFlow(NoOptions()).score(smooth, probe) == pytest.approx(math.log(12), abs=1e-12)


def test_synflow_of_a_network_that_nothing_flows_through_is_the_worst() -> None:
    student = vector_model(nn.Sequential(linear([[1.0, -2.0]]), linear([[0.0]])))
    assert SynFlow(NoOptions()).score(student, HandProbe({"x": torch.zeros(1, 2)})) == -math.inf


def test_registers_what_exists() -> None:
    register = Register()
    zero_cost.kdsearch_register(register)
    assert [entry.name for entry in register.entries] == ["params", "macs", "nwot", "swap", "synflow"]
    for entry in register.entries:
        module, _, name = entry.target.partition(":")
        assert hasattr(import_module(module), name)
