"""The terms of AZ-NAS: spectra made by hand, blocks whose Jacobian is known, the rank sum."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kdsearch_plugins.zero_cost.az_nas import (
    AzNas,
    Expressivity,
    Progressivity,
    Trainability,
    entropies,
    folded,
    spectral_entropy,
)
from kdsearch_plugins.zero_cost.size import Macs
from torch import nn
from zero_cost_toys import linear, token_model, token_probe, two_input_model, two_input_probe, vector_model

from kdsearch.errors import PluginError
from kdsearch.kinds import Model, NoOptions
from kdsearch.testing.models import noise_batch, small_resnet
from kdsearch.testing.probe import HandProbe
from kdsearch.testing.proxy import ProxyContract


class TestExpressivity(ProxyContract):
    proxy = Expressivity


class TestProgressivity(ProxyContract):
    proxy = Progressivity


class TestTrainability(ProxyContract):
    proxy = Trainability


class TestAzNas(ProxyContract):
    proxy = AzNas


def of_blocks(*parts: nn.Module) -> Model:
    net = nn.Sequential(*parts)
    return Model(net, ("x",), blocks=tuple(str(i) for i in range(len(parts))))


def test_entropy_of_spectra_made_by_hand() -> None:
    square = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    assert spectral_entropy(square) == pytest.approx(math.log(2), abs=1e-7)
    assert spectral_entropy(square @ torch.tensor([[1.0, 0], [0, 0]])) == pytest.approx(0.0, abs=1e-7)
    three_to_one = square * torch.tensor([math.sqrt(3), 1.0])
    assert spectral_entropy(three_to_one) == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25), abs=1e-6)
    rng = torch.Generator().manual_seed(0)
    line = torch.randn(50, 1, generator=rng) @ torch.randn(
        1, 200, generator=rng
    )  # eigenvalues that rounding makes negative
    assert spectral_entropy(line) == pytest.approx(0.0, abs=1e-3)
    assert math.isnan(spectral_entropy(torch.zeros(4, 2)))
    assert math.isnan(spectral_entropy(torch.ones(4, 2)))


@settings(max_examples=30)
@given(scale=st.floats(1e-15, 1e15), seed=st.integers(0, 99))
def test_entropy_knows_no_scale_no_shift_and_no_rotation(scale: float, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    rows, turn = torch.randn(20, 4, generator=rng), torch.linalg.qr(torch.randn(4, 4, generator=rng)).Q
    wanted = spectral_entropy(rows)
    assert 0 <= wanted <= math.log(4)
    assert spectral_entropy(scale * (rows @ turn + 1.0)) == pytest.approx(wanted, abs=1e-4)


def numpy_entropy(feature: torch.Tensor) -> float:
    rows = feature.double().movedim(1, -1).flatten(0, -2).numpy()
    v = np.linalg.eigvalsh(np.cov(rows.T, bias=True))
    p = v / v.sum()
    return float(-(p * np.log(p + 1e-8)).sum())


def test_expressivity_is_the_sum_and_progressivity_the_least_growth() -> None:
    """Features of a model without blocks are its stages, in train mode."""
    student, probe = small_resnet((4, 8, 6)), HandProbe(noise_batch())
    out = probe.run(student)
    wanted = [numpy_entropy(out[f"stage[{i}]"]) for i in range(3)]
    assert entropies(student, probe) == pytest.approx(wanted, abs=1e-5)
    assert Expressivity(NoOptions()).score(student, probe) == pytest.approx(sum(wanted), abs=1e-5)
    least = min(wanted[1] - wanted[0], wanted[2] - wanted[1])
    assert Progressivity(NoOptions()).score(student, probe) == pytest.approx(least, abs=1e-5)


def test_features_are_the_first_blocks_input_and_every_blocks_output() -> None:
    student, probe = small_resnet(depth=2), HandProbe(noise_batch())
    paths = [f"stages.{i}.{k}" for i in range(2) for k in range(2)]
    student.blocks = tuple(paths)
    found = entropies(student, probe)
    net = student.copy().module.train()
    x = torch.relu(net.stem(probe.batch["image"])).detach()
    wanted = [numpy_entropy(x)]
    for stage in net.stages:
        for block in stage:
            x = block(x).detach()
            wanted.append(numpy_entropy(x))
    assert found == pytest.approx(wanted, abs=1e-5)


def test_trainability_of_linear_blocks_is_that_of_their_weights() -> None:
    """y = W x: the estimate is W^T (G^T G / N), with the signs G that the stream gives."""
    weights = [[[2.0, 0.5], [0.0, 1.0], [1.0, -1.0]], [[0.5, 0.1, 0.3]]]
    rng, values = torch.Generator().manual_seed(0), []
    for w in weights:
        signs = 2 * torch.randint(0, 2, (50, len(w)), generator=rng).double().numpy() - 1
        s = np.linalg.norm(np.array(w).T @ (signs.T @ signs / 50), 2)
        values.append(2 - s - 1 / (s + 1e-6))
    found = Trainability(NoOptions()).score(of_blocks(*map(linear, weights)), HandProbe({"x": torch.randn(50, 2)}))
    assert found == pytest.approx(np.mean(values), abs=1e-5)


@settings(max_examples=20)
@given(angle=st.floats(0.3, 6.0), scale=st.sampled_from([0.25, 1.0, 4.0]))
def test_an_isometry_is_the_best(angle: float, scale: float) -> None:
    turn = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    student = of_blocks(linear((scale * np.array(turn)).tolist()), linear(turn))
    found = Trainability(NoOptions()).score(student, HandProbe({"x": torch.randn(4000, 2)}))
    assert found == pytest.approx((2 - scale - 1 / scale) / 2, abs=0.1)
    assert found <= 1e-5


def test_an_identity_block_is_the_worst_and_a_dead_one_bad() -> None:
    probe = HandProbe({"x": torch.randn(9, 2)})
    turn = linear([[0.0, -1.0], [1.0, 0.0]])
    assert Trainability(NoOptions()).score(of_blocks(turn, nn.Identity()), probe) == -math.inf
    dead = linear([[0.0, 0.0], [0.0, 0.0]])
    assert Trainability(NoOptions()).score(of_blocks(turn, dead), probe) == pytest.approx((2 - 1e6 + 0) / 2, rel=1e-3)


def test_blocks_may_work_in_place() -> None:
    turn, other = linear([[0.0, -1.0], [1.0, 0.0]]), linear([[0.6, -0.8], [0.8, 0.6]])
    plain, in_place = (nn.Sequential(nn.ReLU(inplace=flag), other) for flag in (False, True))
    probe = HandProbe({"x": torch.randn(30, 2)})
    scores = [Trainability(NoOptions()).score(of_blocks(turn, each), probe) for each in (plain, in_place)]
    assert scores[0] == scores[1] > -math.inf
    entropy = [Expressivity(NoOptions()).score(of_blocks(turn, each), probe) for each in (plain, in_place)]
    assert entropy[0] == entropy[1]


def test_places_of_a_stride_become_channels() -> None:
    x = torch.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 4, 4)
    assert torch.equal(folded(x, (2, 2)), torch.nn.functional.pixel_unshuffle(x, 2))
    assert folded(x[:, :, :3, :3], (2, 2)).shape == (2, 12, 2, 2)
    assert folded(x, (4, 4)) is x


def test_the_stride_of_a_convolution_is_seen() -> None:
    torch.manual_seed(0)
    student = of_blocks(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, 2, padding=1))
    assert math.isfinite(Trainability(NoOptions()).score(student, HandProbe({"x": torch.randn(4, 3, 7, 7)})))


def test_models_without_features_are_the_worst() -> None:
    probe = HandProbe({"x": torch.randn(4, 2)})
    for proxy in (Expressivity, Progressivity, Trainability):
        assert proxy(NoOptions()).score(vector_model(nn.Linear(2, 2)), probe) == -math.inf


def test_az_nas_sums_the_logs_of_ranks_among_the_sample() -> None:
    probe = HandProbe(noise_batch())
    sample = [small_resnet((4, width), depth, seed=width) for width in (4, 8) for depth in (1, 2)]
    proxy = AzNas(NoOptions())
    with pytest.raises(PluginError, match="sample"):
        proxy.score(sample[0], probe)
    proxy.fit(sample, probe)
    wanted = np.zeros(len(sample))
    for term in (Expressivity, Progressivity, Trainability, Macs):
        scores = np.array([term(NoOptions()).score(model, probe) for model in sample])
        wanted += np.log(
            [((scores < each).sum() + (scores == each).sum() / 2 + 0.5) / (len(sample) + 1) for each in scores]
        )
    assert [proxy.score(model, probe) for model in sample] == pytest.approx(wanted.tolist(), abs=1e-6)


def staged(model: Callable[..., Model], paths: Sequence[str]) -> Model:
    student = model()
    student.blocks = tuple(paths)
    return student


@pytest.mark.parametrize("proxy", [Expressivity, Progressivity, Trainability])
@pytest.mark.parametrize(
    ("model", "probe", "paths"),
    [
        (token_model, token_probe, ("mix", "classifier")),
        (two_input_model, two_input_probe, ("conv", "lift", "classifier")),
    ],
)
def test_tokens_and_several_inputs(proxy: Any, model: Any, probe: Any, paths: Sequence[str]) -> None:
    assert not math.isnan(proxy(NoOptions()).score(staged(model, paths), probe()))
    assert math.isfinite(Expressivity(NoOptions()).score(staged(model, paths), probe()))
