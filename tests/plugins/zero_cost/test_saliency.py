"""snip, plain, grad_norm, grasp, fisher: against softmax regression worked by hand in NumPy, and autograd on a plain copy."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kdsearch_plugins.zero_cost.loss import labelled, weight_gradients
from kdsearch_plugins.zero_cost.saliency import Fisher, FisherOptions, GradNorm, Grasp, GraspOptions, Plain, Snip
from torch import nn
from torch.nn import functional as F
from zero_cost_toys import linear, token_model, token_probe, two_input_model, two_input_probe, vector_model

from kdsearch.kinds import HIDDEN, Batch, NoOptions
from kdsearch.ops.weights import weight_matrices
from kdsearch.testing.models import noise_batch, small_resnet
from kdsearch.testing.probe import HandProbe, HandTask
from kdsearch.testing.proxy import ProxyContract

X = np.array([[1.0, -2.0, 0.5], [0.0, 1.0, 3.0], [-1.0, 1.0, 1.0], [2.0, 0.0, -1.0]])
Y = np.array([0, 1, 1, 0])
W = np.array([[0.3, -0.2, 0.1], [-0.4, 0.5, 0.2]])


class TestSnip(ProxyContract):
    proxy = Snip


class TestPlain(ProxyContract):
    proxy = Plain


class TestGradNorm(ProxyContract):
    proxy = GradNorm


class TestGrasp(ProxyContract):
    proxy = Grasp


class TestFisher(ProxyContract):
    proxy = Fisher


def regression() -> tuple[Any, HandProbe]:
    student = vector_model(linear(W.tolist()))
    return student, HandProbe({"x": torch.tensor(X, dtype=torch.float32), "label": torch.tensor(Y)})


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def errors(temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    p = softmax(X @ W.T / temperature)
    return p, (p - np.eye(2)[Y]) / len(X) / temperature


def hessian_vector(v: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """H v of softmax regression: mean_n (diag(p) - p p^T) (v x) x^T / T^2."""
    p, _ = errors(temperature)
    out = np.zeros_like(v)
    for x, q in zip(X, p, strict=True):
        out += np.outer((np.diag(q) - np.outer(q, q)) @ (v @ x), x) / len(X) / temperature**2
    return out


def test_first_order_scores_of_softmax_regression() -> None:
    student, probe = regression()
    g = errors()[1].T @ X
    assert Snip(NoOptions()).score(student, probe) == pytest.approx(np.abs(W * g).sum(), rel=1e-5)
    assert Plain(NoOptions()).score(student, probe) == pytest.approx((W * g).sum(), rel=1e-5)
    assert GradNorm(NoOptions()).score(student, probe) == pytest.approx(np.linalg.norm(g), rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_grasp_of_softmax_regression(temperature: float) -> None:
    student, probe = regression()
    g = errors(temperature)[1].T @ X
    found = Grasp(GraspOptions(temperature=temperature)).score(student, probe)
    assert found == pytest.approx(-(W * hessian_vector(g, temperature)).sum(), rel=1e-4)


def test_grasp_where_scale_does_not_matter_is_the_squared_gradient() -> None:
    """L(c W) = L(W), so g is of degree -1 in W and H W = -g."""
    torch.manual_seed(0)
    student = vector_model(nn.Sequential(nn.Linear(3, 2, bias=False), nn.BatchNorm1d(2, eps=1e-12)))
    _, probe = regression()
    g = weight_gradients(student, probe)["0.weight"].double()
    assert Grasp(GraspOptions()).score(student, probe) == pytest.approx(float(g.square().sum()), rel=1e-3)


@pytest.mark.parametrize(
    ("proxy", "of_weight"),
    [
        (Snip, lambda w, g: (w * g).abs().sum()),
        (Plain, lambda w, g: (w * g).sum()),
        (GradNorm, lambda w, g: g.square().sum().sqrt()),
    ],
)
def test_sums_go_over_the_weights_of_all_layers(proxy: Any, of_weight: Callable[..., torch.Tensor]) -> None:
    student, probe = small_resnet(depth=2), HandProbe(noise_batch())
    plain = student.copy().module.double().train()
    F.cross_entropy(plain(probe.batch["image"].double()), probe.batch["label"]).backward()
    wanted = sum(of_weight(w, w.grad).item() for w in plain.parameters() if w.dim() > 1)
    assert proxy(NoOptions()).score(student, probe) == pytest.approx(wanted, rel=1e-4)


def test_grasp_of_a_network_is_the_second_derivative_by_finite_differences() -> None:
    """w^T H g = d/de of the gradient at w (1 + e), times g."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    student, probe = vector_model(net), regression()[1]
    exact = student.copy().module.double()
    x, y = torch.tensor(X), torch.tensor(Y)

    def slopes(scale: float) -> list[torch.Tensor]:
        weights = {path: w.detach() * scale for path, w in weight_matrices(exact).items()}
        leaves = [each.requires_grad_() for each in weights.values()]
        return list(torch.autograd.grad(F.cross_entropy(torch.func.functional_call(exact, weights, (x,)), y), leaves))

    e = 1e-5
    moved = [(a - b) / (2 * e) for a, b in zip(slopes(1 + e), slopes(1 - e), strict=True)]
    wanted = -sum(float((m * g).sum()) for m, g in zip(moved, slopes(1.0), strict=True))
    assert Grasp(GraspOptions()).score(student, probe) == pytest.approx(wanted, rel=1e-4)


def test_grasp_of_hardsigmoid_is_that_of_its_formula() -> None:
    class Formula(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.relu6(x + 3) / 6

    def score(part: nn.Module) -> float:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 4), part, nn.Linear(4, 2))
        return Grasp(GraspOptions()).score(vector_model(net), regression()[1])

    assert score(nn.Hardsigmoid()) == score(Formula()) != 0


@pytest.mark.parametrize("proxy", [Plain(NoOptions()), Grasp(GraspOptions())])
def test_signed_sums_of_a_network_without_gradients_are_the_worst(proxy: Any) -> None:
    torch.manual_seed(0)
    dead = nn.Sequential(nn.Linear(3, 4), nn.Threshold(1e9, 0.0), nn.Linear(4, 2, bias=False))
    assert proxy.score(vector_model(dead), regression()[1]) == -math.inf


def test_fisher_of_softmax_regression() -> None:
    student, probe = regression()
    a, d = X @ W.T, errors()[1]
    channels = ((a * d) ** 2).mean(0) / 2
    assert Fisher(FisherOptions()).score(student, probe) == pytest.approx(channels.sum() * 3, rel=1e-5)
    once = Fisher(FisherOptions(count="channels")).score(student, probe)
    assert once == pytest.approx(channels.sum(), rel=1e-5)


def test_fisher_sums_over_places_before_it_squares_also_where_a_rectifier_works_in_place() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(12, 2))
    x, y = torch.randn(5, 2, 4, 4), torch.arange(5) % 2
    a = net[0](x)
    z = net[3](F.relu(a).flatten(1))
    d_a, d_z = torch.autograd.grad(F.cross_entropy(z, y), [a, z])
    conv = ((a * d_a).sum((2, 3)) ** 2).mean(0) / 2
    head = ((z * d_z) ** 2).mean(0) / 2
    found = Fisher(FisherOptions()).score(vector_model(net), HandProbe({"x": x, "label": y}))
    assert found == pytest.approx((conv.sum() * 18 + head.sum() * 12).item(), rel=1e-5)


def test_fisher_takes_the_last_axis_of_tokens_as_channels() -> None:
    torch.manual_seed(0)
    lift = nn.Linear(3, 4)
    x, y = torch.randn(5, 7, 3), torch.arange(5) % 4

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lift = lift

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.lift(x).mean(1)
            return out

    a = lift(x)
    (d,) = torch.autograd.grad(F.cross_entropy(a.mean(1), y), [a])
    wanted = 3 * ((a * d).sum(1) ** 2).mean(0).sum() / 2
    found = Fisher(FisherOptions()).score(vector_model(Mean()), HandProbe({"x": x, "label": y}))
    assert found == pytest.approx(wanted.item(), rel=1e-5)


@settings(max_examples=20)
@given(scale=st.floats(0.1, 10.0))
def test_snip_and_plain_do_not_change_with_the_scale_of_weights_before_a_batch_norm(scale: float) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4, eps=1e-12), nn.ReLU(), nn.Linear(4, 2))
    probe = regression()[1]
    before = [proxy(NoOptions()).score(vector_model(net), probe) for proxy in (Snip, Plain)]
    with torch.no_grad():
        net[0].weight.mul_(scale)
    after = [proxy(NoOptions()).score(vector_model(net), HandProbe(probe.batch)) for proxy in (Snip, Plain)]
    assert after == pytest.approx(before, rel=1e-3, abs=1e-6)


class DrawnLabels(HandTask):
    def dummy(self, io: Any, n: int, rng: torch.Generator) -> Batch:
        return super().dummy(io, n, rng).having(label=torch.randint(2, (n,), generator=rng))


@pytest.mark.parametrize("known", ["none", "hidden", "some", "all"])
def test_labels_that_are_not_known_are_drawn_the_same_for_all(known: str) -> None:
    labels = {"hidden": [HIDDEN] * 4, "some": [0, HIDDEN, HIDDEN, 1], "all": [1, 0, 0, 1]}
    tensors = {"x": torch.tensor(X, dtype=torch.float32)}
    if known != "none":
        tensors["label"] = torch.tensor(labels[known])
    probe = HandProbe(tensors, task=DrawnLabels(NoOptions()))
    batch = labelled(probe)
    if known in labels and known != "hidden":
        assert batch["label"].tolist() == labels[known]
    else:
        assert set(batch["label"].tolist()) <= {0, 1}
    assert labelled(probe) is batch
    assert math.isfinite(Snip(NoOptions()).score(regression()[0], probe))
    assert torch.equal(batch["x"], tensors["x"])


@pytest.mark.parametrize("proxy", [Snip, Plain, GradNorm, Grasp, Fisher])
@pytest.mark.parametrize(("model", "probe"), [(token_model, token_probe), (two_input_model, two_input_probe)])
def test_tokens_and_several_inputs(proxy: Any, model: Callable[..., Any], probe: Callable[[], HandProbe]) -> None:
    scores = [proxy(proxy.options_class()).score(model(seed), probe()) for seed in (0, 1)]
    assert all(map(math.isfinite, scores))
    assert scores[0] != scores[1]
