"""synflow and synflow_bn: networks worked by hand, and the sum over weights by autograd."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kdsearch_plugins.zero_cost.synflow import SynFlow, SynFlowBn
from torch import Tensor, nn
from torch.nn import functional as F
from zero_cost_toys import linear, token_model, token_probe, two_input_model, two_input_probe, vector_model

import kdsearch
from kdsearch.kinds import IO, Field, Model, NoOptions
from kdsearch.testing.contract import changed, trace
from kdsearch.testing.models import noise_batch, small_resnet
from kdsearch.testing.probe import HandProbe
from kdsearch.testing.proxy import ProxyContract


class TestSynFlow(ProxyContract):
    proxy = SynFlow


class TestSynFlowBn(ProxyContract):
    proxy = SynFlowBn


def score(module: nn.Module, *shape: int) -> float:
    return SynFlow(NoOptions()).score(vector_model(module), HandProbe({"x": torch.zeros(1, *shape)}))


def test_computed_on_paper() -> None:
    """One hidden unit fed 1 and -2 of two ones, then 3: R = 9, each of two layers gives 9."""
    student = vector_model(nn.Sequential(linear([[1.0, -2.0]]), linear([[3.0]])))
    probe = HandProbe({"x": torch.zeros(1, 2)})
    assert SynFlow(NoOptions()).score(student, probe) == pytest.approx(math.log(18), abs=1e-12)
    with torch.no_grad():
        for weight in student.module.parameters():
            weight.neg_()
    assert SynFlow(NoOptions()).score(student, probe) == pytest.approx(math.log(18), abs=1e-12)


def test_equals_the_sum_over_weights_by_autograd() -> None:
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


def test_beyond_the_range_of_float64() -> None:
    """40 chained layers that each multiply by 1e12: R = 1e480, score ln(40 R)."""
    student = vector_model(nn.Sequential(*(linear([[1e12]]) for _ in range(40))))
    found = SynFlow(NoOptions()).score(student, HandProbe({"x": torch.zeros(1, 1)}))
    exact = sum(math.log(float(torch.tensor(1e12))) for _ in range(40)) + math.log(40)
    assert found == pytest.approx(exact, rel=1e-9)


def test_leaves_biases_out() -> None:
    student = vector_model(nn.Sequential(linear([[1.0]], bias=True), linear([[3.0]], bias=True)))
    with torch.no_grad():
        for layer in student.module:
            layer.bias.fill_(5.0)
    found = SynFlow(NoOptions()).score(student, HandProbe({"x": torch.zeros(1, 1)}))
    assert found == pytest.approx(math.log(6), abs=1e-12)


def test_takes_gates_as_open_and_smooth_rectifiers_as_the_identity() -> None:
    """1 through an open gate, times 2: R = 2, and only the last layer moves it. Without gates R = 6, moved by both."""
    gated = vector_model(nn.Sequential(linear([[1.0]]), nn.Hardsigmoid(), linear([[2.0]]), nn.Hardswish()))
    smooth = vector_model(nn.Sequential(linear([[3.0]]), nn.GELU(), linear([[2.0]]), nn.SiLU()))
    probe = HandProbe({"x": torch.zeros(1, 1)})
    assert SynFlow(NoOptions()).score(gated, probe) == pytest.approx(math.log(2), abs=1e-12)
    assert SynFlow(NoOptions()).score(smooth, probe) == pytest.approx(math.log(12), abs=1e-12)


def test_of_a_network_that_nothing_flows_through_is_the_worst() -> None:
    student = vector_model(nn.Sequential(linear([[1.0, -2.0]]), linear([[0.0]])))
    assert SynFlow(NoOptions()).score(student, HandProbe({"x": torch.zeros(1, 2)})) == -math.inf


class Everything(nn.Module):
    """Norms, rectifiers and gates as functions, work in place, a weight that is used twice, maps that are pooled and multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.again = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1, groups=3)
        self.scale = nn.Parameter(torch.randn(3, 1, 1))
        self.up = nn.ConvTranspose2d(3, 4, 2, 2)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x *= 2.0
        x = F.relu(F.batch_norm(x, torch.zeros(3), torch.ones(3)), inplace=True)
        z = F.silu(self.again(F.gelu(self.again(x)))) * self.scale
        z += x
        x = z
        x = x * torch.sigmoid(x.mean((2, 3), keepdim=True))
        y = torch.relu(x)
        y += 1.0  # x stays
        x = x + F.hardtanh(y)
        x = F.max_pool2d(self.up(F.group_norm(x, 3)).relu_(), 2)
        out: Tensor = self.head(F.layer_norm(x.mean((2, 3)), (4,)))
        return out


class EverythingLinear(Everything):
    def forward(self, x: Tensor) -> Tensor:
        x = 2.0 * self.conv(x)
        x = x + self.again(self.again(x)) * self.scale
        x = x + (x + 1.0)
        out: Tensor = self.head(F.max_pool2d(self.up(x), 2).mean((2, 3)))
        return out


def by_autograd(net: nn.Module, *ones: Tensor) -> float:
    """ln of the sum of |w dR/dw| of a network that is linear already."""
    net = net.double().eval()
    with torch.no_grad():
        for name, weight in net.named_parameters():
            weight.copy_(torch.zeros_like(weight) if "bias" in name else weight.abs())
    net(*(each.double() if each.is_floating_point() else each for each in ones)).sum().backward()
    weights = [w for name, w in net.named_parameters() if w.dim() > 1 and "weight" in name and w.grad is not None]
    return math.log(sum(float((w.detach() * w.grad).abs().sum()) for w in weights))


def test_functions_work_in_place_shared_weights_and_products() -> None:
    torch.manual_seed(0)
    net, plain = Everything(), EverythingLinear()
    plain.load_state_dict(net.state_dict())
    before = trace(net)
    assert score(net, 2, 4, 4) == pytest.approx(by_autograd(plain, torch.ones(1, 2, 4, 4)), abs=1e-6)  # groups: float32
    assert not changed(before, trace(net))


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_convolutions_in_groups_beyond_the_range_of_float32(size: float) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(4, 4, 3, padding=1, groups=groups) for groups in (4, 2, 4, 1, 4)]
    with torch.no_grad():
        for layer in layers:
            layer.weight.mul_(size)
    net = nn.Sequential(*layers)
    found = score(net, 4, 5, 5)
    assert found == pytest.approx(by_autograd(net, torch.ones(1, 4, 5, 5)), abs=1e-6)
    assert abs(found) > 100 or size == 1.0


class Attends(nn.Module):
    """Attention of a module or of a function, with a token in front."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.first = nn.Parameter(torch.randn(1, 1, 4))
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.first, x], 1)
        if self.kind == "module":
            y = self.attention(x, x, x)[0]
        else:
            w, part = self.attention.in_proj_weight, F.linear
            q, k, v = (part(x, w[4 * i : 4 * i + 4]) for i in range(3))
            if self.kind == "function":
                y = F.scaled_dot_product_attention(q, k, v)
            elif self.kind == "softmax":
                y = (q @ k.mT).softmax(dim=-1) @ v
            else:
                y = v.mean(1, keepdim=True).expand(v.shape)
            y = self.attention.out_proj(y)
        out: Tensor = self.head((x + y).mean(1))
        return out


@pytest.mark.parametrize("kind", ["module", "function", "softmax"])
def test_attention_spreads_evenly(kind: str) -> None:
    torch.manual_seed(0)
    net, plain = Attends(kind), Attends("even")
    plain.load_state_dict(net.state_dict())
    assert score(net, 5, 4) == pytest.approx(by_autograd(plain, torch.ones(1, 5, 4)), abs=1e-10)


def test_a_transformer_layer_of_torch() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1, batch_first=True)
    assert math.isfinite(score(nn.Sequential(layer, nn.Flatten(), nn.Linear(12, 2)), 3, 4))


def test_a_recurrent_layer_flows_through_its_gates() -> None:
    """Not linear, but all slopes are >= 0: the sum is that of the layer with |w|, as it is."""
    torch.manual_seed(0)

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.lstm(x)[0][:, -1])
            return out

    net, plain = Recurrent(), Recurrent()
    plain.load_state_dict(net.state_dict())
    assert score(net, 5, 3) == pytest.approx(by_autograd(plain, torch.ones(1, 5, 3)), abs=1e-10)


def test_tokens_flow_from_the_sizes_of_their_vectors() -> None:
    student, probe = token_model(), token_probe()
    ids = probe.task.dummy(probe.io, 1, torch.Generator().manual_seed(0))["ids"]
    net = student.copy().module
    net.norm = nn.Identity()
    found = SynFlow(NoOptions()).score(student, probe)
    for part in (net.tokens, net.positions):  # looked up, not multiplied: its own slopes do not count
        part.weight = nn.Parameter(part.weight.detach().abs().double(), requires_grad=False)
    assert found == pytest.approx(by_autograd(net, ids, torch.ones(1, 4)), abs=1e-10)


def test_several_inputs() -> None:
    student = two_input_model()
    found = SynFlow(NoOptions()).score(student, two_input_probe())
    assert found == pytest.approx(
        by_autograd(student.copy().module, torch.ones(1, 1, 6, 6), torch.ones(1, 5)), abs=1e-10
    )


@settings(max_examples=30)
@given(widths=st.lists(st.integers(1, 5), min_size=2, max_size=6), scale=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
def test_a_chain_of_layers_has_the_flow_once_a_layer(widths: list[int], scale: float, seed: int) -> None:
    """score = ln(L R): signs do not count, a factor on one layer is a factor on all."""
    torch.manual_seed(seed)
    layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
    value = torch.ones(1, widths[0], dtype=torch.float64)
    for layer in layers:
        value = value @ layer.weight.detach().double().abs().T
    wanted = math.log(float(value.sum()) * len(layers))
    net = nn.Sequential(*layers)
    assert score(net, widths[0]) == pytest.approx(wanted, abs=1e-9)
    with torch.no_grad():
        layers[-1].weight.mul_(-scale)
    assert score(net, widths[0]) == pytest.approx(wanted + math.log(scale), abs=1e-5)


def test_flow_with_norms_kept_is_the_sum_over_weights_in_train_mode() -> None:
    """As released: |w|, float64, one sample of ones, batch norms of it; here of two equal samples, halved."""
    student = small_resnet(depth=2)
    net = student.copy().module.double().train()
    with torch.no_grad():
        for weight in net.parameters():
            weight.abs_()
    net(torch.ones(1, 3, 8, 8, dtype=torch.float64)).sum().backward()
    wanted = sum(
        float((w.detach() * w.grad).abs().sum()) for w in net.parameters() if w.dim() > 1 and w.grad is not None
    )
    found = SynFlowBn(NoOptions()).score(student, HandProbe(noise_batch(2)))
    assert found == pytest.approx(math.log(wanted), abs=1e-6)
    assert found != pytest.approx(SynFlow(NoOptions()).score(student, HandProbe(noise_batch(2))), abs=0.1)


@pytest.mark.parametrize("proxy", [SynFlow, SynFlowBn])
@pytest.mark.parametrize(("model", "probe"), [(token_model, token_probe), (two_input_model, two_input_probe)])
def test_tokens_and_several_inputs(proxy: Any, model: Callable[..., Model], probe: Callable[[], HandProbe]) -> None:
    scores = [proxy(NoOptions()).score(model(seed), probe()) for seed in (0, 1)]
    assert all(map(math.isfinite, scores))
    assert scores[0] != scores[1]


def test_units_of_the_numbers_change_nothing() -> None:
    """A network of numbers in their own units reads them standardised: its flow is that of ones there."""

    def found(**units: tuple[float, ...]) -> float:
        io = IO(
            (Field("numbers", "vector", (2,), **units), Field("categories", "categories", (2,), "int64", n_values=5)),  # type: ignore[arg-type]
            (Field("logits", "logits", (3,)),),
        )
        value = kdsearch.scorer("mlp", ["synflow"], io=io).score({"depth": 2, "widths": [8] * 6}).scores["synflow"]
        assert value is not None
        return value

    assert math.isfinite(found(mean=(5.0, 1e4), std=(2.0, 10.0)))
    assert found(mean=(5.0, 1e4), std=(2.0, 10.0)) == pytest.approx(found(), rel=1e-9)
