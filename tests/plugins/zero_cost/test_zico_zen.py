"""zico and zen: their authors' formulas in NumPy, networks worked by hand."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from kdsearch_plugins.zero_cost.zen import Zen, ZenOptions
from kdsearch_plugins.zero_cost.zico import Zico, ZicoOptions, inverse_variation
from torch import nn
from torch.nn import functional as F
from zero_cost_toys import linear, token_model, token_probe, two_input_model, two_input_probe, vector_model

import kdsearch
from kdsearch.kinds import IO, Field, Model
from kdsearch.testing.contract import changed, trace
from kdsearch.testing.models import noise_batch, small_resnet
from kdsearch.testing.probe import HandProbe
from kdsearch.testing.proxy import ProxyContract


class TestZico(ProxyContract):
    proxy = Zico


class TestZen(ProxyContract):
    proxy = Zen


def test_inverse_variation_by_hand() -> None:
    """|1|,|3| over std 1 is 2; |-1|,|3| over std 2 is 1; what does not vary is left out."""
    assert inverse_variation([torch.tensor([1.0, -1, 5, 0]), torch.tensor([3.0, 3, 5, 0])]) == pytest.approx(3.0)


@pytest.mark.parametrize("batches", [2, 4])
def test_zico_as_its_authors_code_it(batches: int) -> None:
    student, tensors = small_resnet(depth=2), noise_batch(8)
    grads: dict[str, list[np.ndarray]] = {}
    for image, label in zip(tensors["image"].chunk(batches), tensors["label"].chunk(batches), strict=True):
        net = student.copy().module.train()
        F.cross_entropy(net(image), label).backward()
        for name, part in net.named_modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                assert part.weight.grad is not None
                grads.setdefault(name, []).append(part.weight.grad.numpy().ravel())
    wanted = 0.0
    for each in map(np.array, grads.values()):
        std = each.std(0)
        wanted += math.log((np.abs(each).mean(0)[std != 0] / std[std != 0]).sum())
    found = Zico(ZicoOptions(batches=batches)).score(student, HandProbe(tensors))
    assert found == pytest.approx(wanted, rel=1e-4)


def test_zico_where_no_gradient_varies_is_the_worst() -> None:
    student = vector_model(nn.Sequential(linear([[0.0, 0.0]]), nn.ReLU(), linear([[0.0], [0.0]])))
    probe = HandProbe({"x": torch.ones(4, 2), "label": torch.tensor([0, 1, 0, 1])})
    assert Zico(ZicoOptions()).score(student, probe) == -math.inf
    assert Zico(ZicoOptions()).score(student, HandProbe(probe.batch.rows(torch.tensor([0])))) == -math.inf


def test_zen_of_a_linear_network() -> None:
    """f(x + g e) - f(x) = g W e: e is drawn after x."""
    student, probe = vector_model(linear([[1.0, -2.0, 3.0], [0.5, 0.0, 1.0]])), HandProbe({"x": torch.zeros(4, 3)})
    rng = torch.Generator().manual_seed(0)
    _, e = torch.randn(32, 3, generator=rng), torch.randn(32, 3, generator=rng)
    weight = student.module.weight.detach().double().numpy()
    for gamma in (0.01, 0.1):
        wanted = math.log(np.abs(gamma * e.double().numpy() @ weight.T).sum(1).mean())
        assert Zen(ZenOptions(gamma=gamma)).score(student, probe) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("variance", ["running", "batch"])
def test_zen_undoes_batch_norms(variance: Any) -> None:
    """Running variances after two passes from 1 with momentum 0.1; the batch's is the second pass's, unbiased as torch's are."""
    norm = nn.BatchNorm1d(2, eps=1e-12)
    student, probe = (
        vector_model(nn.Sequential(linear([[1.0, -2.0], [0.5, 3.0]]), norm)),
        HandProbe({"x": torch.zeros(4, 2)}),
    )
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(32, 2, generator=rng)
    moved = x + 0.01 * torch.randn(32, 2, generator=rng)
    a, b = (each.double().numpy() @ student.module[0].weight.detach().double().numpy().T for each in (x, moved))
    f, g = ((each - each.mean(0)) / each.std(0) for each in (a, b))
    running = 0.9 * (0.9 + 0.1 * a.var(0, ddof=1)) + 0.1 * b.var(0, ddof=1)
    of_norm = running if variance == "running" else b.var(0, ddof=1)
    wanted = math.log(np.abs(f - g).sum(1).mean()) + math.log(math.sqrt(of_norm.mean()))
    before = trace(student.module)
    assert Zen(ZenOptions(variance=variance)).score(student, probe) == pytest.approx(wanted, abs=1e-3)
    assert not changed(before, trace(student.module))
    assert norm.momentum == 0.1


def test_zen_reads_the_map_before_pooling_and_not_the_classifier() -> None:
    student, probe = small_resnet(), HandProbe(noise_batch())
    before = Zen(ZenOptions()).score(student, probe)
    with torch.no_grad():
        student.module.classifier.weight.zero_()
    assert Zen(ZenOptions()).score(student, probe) == before


def test_zen_averages_over_initialisations_that_it_draws() -> None:
    student, probe = small_resnet(), HandProbe(noise_batch())
    scores = {repeats: Zen(ZenOptions(repeats=repeats)).score(student, probe) for repeats in (1, 2, 4)}
    assert len(set(scores.values())) == 3
    with torch.no_grad():
        for weight in student.module.parameters():
            weight.mul_(2.0)
    first, both = (Zen(ZenOptions(repeats=repeats)).score(student, probe) for repeats in (1, 2))
    assert 2 * both - first == pytest.approx(
        2 * scores[2] - scores[1], abs=1e-6
    )  # the second is drawn, whatever was there


def test_zen_of_dropout_leaves_out_the_same_twice() -> None:
    still = vector_model(nn.Sequential(linear([[1.0, -2.0], [0.5, 3.0]]), nn.Dropout(0.5)))
    probe = HandProbe({"x": torch.zeros(4, 2)})
    assert Zen(ZenOptions(gamma=1e-3)).score(still, probe) < 0  # of the order of ln 1e-3, not of ln 1


@pytest.mark.parametrize("proxy", [Zico, Zen])
@pytest.mark.parametrize(("model", "probe"), [(token_model, token_probe), (two_input_model, two_input_probe)])
def test_tokens_and_several_inputs(proxy: Any, model: Callable[..., Model], probe: Callable[[], HandProbe]) -> None:
    scores = [proxy(proxy.options_class()).score(model(seed), probe()) for seed in (0, 1)]
    assert all(map(math.isfinite, scores))
    assert scores[0] != scores[1]


@pytest.mark.parametrize("std", [(1.0, 1e3, 1e-3, 1e2), (1e7, 1e7, 1e7, 1e7)])
def test_units_of_the_numbers_change_no_zen_score(std: tuple[float, ...]) -> None:
    """Noise is in standard deviations; beside a mean of 1e8 a hundredth of one unit would be lost in float32."""

    def found(**units: tuple[float, ...]) -> float:
        io = IO((Field("numbers", "vector", (4,), **units),), (Field("logits", "logits", (3,)),))  # type: ignore[arg-type]
        value = kdsearch.scorer("mlp", ["zen"], io=io).score({"depth": 2, "widths": [8] * 6}).scores["zen"]
        assert value is not None
        return value

    assert found(mean=tuple(10 * each for each in std), std=std) == pytest.approx(found(), abs=1e-2)
