"""Importances against plain transcriptions in NumPy or by setting channels to zero."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional as F

from kdsearch.builtin.channels.copies import copied
from kdsearch.builtin.channels.cutting import Counted
from kdsearch.builtin.channels.groups import groups_of
from kdsearch.builtin.channels.importance import (
    activity,
    gradient_scores,
    magnitudes,
    norm_scales,
    scores_of,
    with_own_statistics,
)
from kdsearch.builtin.channels.pruner import Channels, ChannelsOptions
from kdsearch.builtin.channels.tracing import traced
from kdsearch.errors import PluginError
from kdsearch.kinds import Batch
from kdsearch.python.pieces import as_model
from kdsearch.testing.compressor import HandSubject
from tests.builtin.channels.bare import bare
from tests.builtin.channels.test_channels import model_of
from tests.deploy.nets import DIGITS, digits


class Net(nn.Module):
    """conv - norm - relu - conv: one group of six channels, and one of four."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.relu(self.b(torch.relu(self.norm(self.a(x))))).mean((2, 3)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    made = Net().double().eval()
    with torch.no_grad():
        made.norm.weight.uniform_(-1, 1)
        made.norm.running_mean.normal_()
    return made


@pytest.fixture
def groups(net):
    found = groups_of(traced(net, (X,)), net)
    assert [(each.path, len(each)) for each in found] == [("a", 6), ("b", 4)]
    return found


X = torch.randn(5, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
Y = torch.tensor([0, 1, 2, 0, 1])


@pytest.mark.parametrize(("name", "macs", "better"), [("depthwise", 0.8, "taylor"), ("mlp", 0.4, "l2")])
def test_auto_takes_what_is_better_on_validation_before_recovery(name, macs, better):
    """With batch norms that have seen what the cut network computes; the plan is that of the better one."""
    _, _, pixels, labels = digits()
    batch = Batch(tuple(map(str, range(512))), {"image": pixels[:512], "label": labels[:512]})
    model = model_of(name)
    subject = HandSubject(0, Path(), model=model, io=DIGITS, batch=batch)

    def settled(module):
        for norm in (made := copied(module)).modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.reset_running_stats()
                norm.momentum = None
                norm.train()
        with torch.no_grad():
            for rows in pixels[:128].split(32):
                made(rows)
        return made.eval()

    def planned(importance):
        pruner = Channels(ChannelsOptions(macs=macs, importance=importance))
        plan = pruner.plan(subject)
        cut = pruner.apply(model, plan)
        return plan, subject.score(replace(cut, module=settled(cut.module)))

    plans = {each: planned(each) for each in ("l2", "taylor", "auto")}
    assert max(("l2", "taylor"), key=lambda each: plans[each][1]) == better
    assert plans["auto"][0].edits == plans[better][0].edits != plans["taylor" if better == "l2" else "l2"][0].edits
    scores = ", ".join(f"{each} {plans[each][1]:.4g}" for each in ("l2", "taylor"))
    assert f"importance {better}: on validation before recovery, higher is better: {scores}" in plans["auto"][0].log


def test_a_sample_that_is_left_over_is_nothing_to_norms():
    """Of 33 samples a batch norm of vectors takes the statistics of 32; of a single one there are none, and it keeps its own."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
    model, (_, _, pixels, labels) = as_model(net, DIGITS, "net"), digits()
    fed = []
    net[2].register_forward_hook(lambda norm, given, _: fed.append(len(given[0])) if norm.training else None)
    for n, expected in ((33, {2, 32}), (1, {2})):  # two are the probes that tell whether a cut network trains
        batch = Batch(tuple(map(str, range(n))), {"image": pixels[:n], "label": labels[:n]})
        log = Channels(ChannelsOptions(macs=0.6)).plan(HandSubject(0, Path(), model=model, io=DIGITS, batch=batch)).log
        assert any("on validation before recovery" in line for line in log)
        assert set(fed) == expected
        fed.clear()
    assert torch.equal(with_own_statistics(net, [])[2].running_var, net[2].running_var)


def test_a_score_that_is_no_number_is_worse_than_any():
    class Exploding(HandSubject):
        def score(self, model, samples=None):
            self.asked = getattr(self, "asked", 0) + 1
            return torch.nan if self.asked == 1 else 0.1

    batch = Batch(tuple(map(str, range(64))), {"image": digits()[0][:64], "label": digits()[1][:64]})
    subject = Exploding(0, Path(), model=model_of("residual"), io=DIGITS, batch=batch)
    log = Channels(ChannelsOptions(macs=0.6)).plan(subject).log
    assert "importance taylor: on validation before recovery, higher is better: l2 nan, taylor 0.1" in log


def test_of_a_latency_and_of_steps_importances_are_judged_at_the_last_target():
    whole = Counted(1000, 5000, 900)
    for options, macs in (
        ({"macs": 0.4, "steps": 4}, 2000),
        ({"latency_ms": 3.0}, 3500),
        ({"latency_ms": 3.0, "macs": 0.4}, 2000),
        ({"latency_ms": 3.0, "macs": 0.9}, 3500),
        ({"params": 0.5}, math.inf),
    ):
        assert Channels(ChannelsOptions(**options))._goal(whole).macs == pytest.approx(macs)
    assert Channels(ChannelsOptions(params=0.5))._goal(whole).params == 500


def test_auto_without_data_goes_by_weights():
    subject = bare(model_of("residual"), DIGITS)
    auto, l2 = (Channels(ChannelsOptions(macs=0.6, importance=each)).plan(subject) for each in ("auto", "l2"))
    assert auto.edits == l2.edits
    assert "importance l2, since taylor cannot be tried: this pruner looks at training samples" in auto.log


class Nan(HandSubject):
    def loss(self, model, batch):
        return super().loss(model, batch) * torch.nan


class Undifferentiable(HandSubject):
    """Code that runs, and that nobody can differentiate."""

    def loss(self, model, batch):
        with torch.no_grad():
            return super().loss(model, batch)


@pytest.mark.parametrize(
    ("subject", "said"),
    [
        (Nan, "the task's loss on training samples is nan"),
        (
            Undifferentiable,
            "the task's loss has no gradients here: RuntimeError: element 0 of tensors does not require grad",
        ),
    ],
)
def test_where_there_are_no_gradients_auto_goes_by_weights(subject, said):
    batch = Batch(tuple(map(str, range(8))), {"image": digits()[0][:8], "label": digits()[1][:8]})
    given = subject(0, Path(), model=model_of("residual"), io=DIGITS, batch=batch)
    log = Channels(ChannelsOptions(macs=0.6)).plan(given).log
    assert any(line.startswith(f"importance l2, since taylor cannot be tried: {said}") for line in log)
    with pytest.raises(PluginError, match=said):
        Channels(ChannelsOptions(macs=0.6, importance="taylor")).plan(given)


def losses(size=5):
    return [
        lambda module, at=at: F.cross_entropy(module(X[at : at + size]), Y[at : at + size]) for at in range(0, 5, size)
    ]


@pytest.mark.parametrize("order", [1, 2])
def test_magnitudes(net, groups, order):
    a, b, head = (np.abs(each.weight.detach().numpy()) ** order for each in (net.a, net.b, net.head))
    first = (a.sum((1, 2, 3)) + b.sum((0, 2, 3))) / 2
    second = (b.sum((1, 2, 3)) + head.sum(0)) / 2
    for found, expected in zip(magnitudes(net, groups, order), (first, second), strict=True):
        np.testing.assert_allclose(found, expected / expected.mean(), rtol=1e-12)


def test_scales_of_norms(net, groups):
    one, other = norm_scales(net, groups)
    gamma = np.abs(net.norm.weight.detach().numpy())
    np.testing.assert_allclose(one, gamma / gamma.mean(), rtol=1e-12)
    assert other is None
    scores, notes = scores_of("bn_scale", net, groups, torch.Generator(), [])
    np.testing.assert_allclose(scores[1], magnitudes(net, groups, 2)[1], rtol=1e-12)
    assert notes == ["by their weights, since bn_scale says nothing of them: b"]


def parts(net):
    """Weights of each group's channel i, by hand: (tensor, dimension)."""
    return [
        [(net.a.weight, 0), (net.a.bias, 0), (net.norm.weight, 0), (net.norm.bias, 0), (net.b.weight, 1)],
        [(net.b.weight, 0), (net.b.bias, 0), (net.head.weight, 1)],
    ]


def test_taylor_is_the_derivative_of_shrinking_a_channel(net, groups):
    """d loss / d s at s = 1, where all weights of a channel are multiplied with s: by central differences."""
    found = gradient_scores(net, groups, losses(), "taylor")
    for group, places in zip(found, parts(net), strict=True):
        for i, score in enumerate(group):
            moved = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    for tensor, dim in places:
                        tensor.select(dim, i).mul_(1 + step)
                    moved.append(float(losses()[0](net)))
                    for tensor, dim in places:
                        tensor.select(dim, i).div_(1 + step)
            assert score == pytest.approx(((moved[0] - moved[1]) / 2e-5) ** 2, rel=1e-4, abs=1e-12)


def test_hessian_is_the_sum_of_squares_a_sample(net, groups):
    found = gradient_scores(net, groups, losses(1), "hessian")
    expected = [np.zeros(6), np.zeros(4)]
    for loss in losses(1):
        net.zero_grad()
        loss(net).backward()
        for total, places in zip(expected, parts(net), strict=True):
            for tensor, dim in places:
                each = ((tensor * tensor.grad) ** 2).detach().movedim(dim, 0)
                total += each.reshape(len(each), -1).sum(1).numpy() / 5
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10)


class Square(nn.Module):
    """A matrix from the stream into the stream: a channel has a row and a column of it, that meet in one weight."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(8, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.a(x[:, 0, 0])
        return self.head(x + self.b(x))


def test_of_a_square_matrix_rows_and_columns_count():
    torch.manual_seed(0)
    net = Square().double()
    (group,) = groups_of(traced(net, (X,)), net)
    losses()[0](net).backward()
    a, a_bias, b, b_bias, head = (
        (each * each.grad).detach().numpy()
        for each in (net.a.weight, net.a.bias, net.b.weight, net.b.bias, net.head.weight)
    )

    def expected(power):
        square = b**power
        both = square.sum(1) + square.sum(0) - np.diag(square)
        return both + (a**power).sum(1) + a_bias**power + b_bias**power + (head**power).sum(0)

    (taylor,), (hessian,) = (gradient_scores(net, [group], losses(), kind) for kind in ("taylor", "hessian"))
    np.testing.assert_allclose(taylor, expected(1) ** 2, rtol=1e-10)
    np.testing.assert_allclose(hessian, expected(2), rtol=1e-10)


def test_activity(net, groups):
    one, other = activity(net, groups, losses())
    fed = torch.relu(net.norm(net.a(X))).detach().numpy()
    read = np.sqrt((net.b.weight.detach().numpy() ** 2).sum((0, 2, 3)))
    np.testing.assert_allclose(one, np.sqrt((fed**2).mean((0, 2, 3))) * read, rtol=1e-12)
    last = torch.relu(net.b(torch.from_numpy(fed))).mean((2, 3)).detach().numpy()
    read = np.sqrt((net.head.weight.detach().numpy() ** 2).sum(0))
    np.testing.assert_allclose(other, np.sqrt((last**2).mean(0)) * read, rtol=1e-12)


@pytest.mark.parametrize("kind", ["taylor", "activation"])
def test_a_network_that_trains_is_scored_as_it_evaluates(net, groups, kind):
    expected, _ = scores_of(kind, net, groups, torch.Generator(), losses())
    found, _ = scores_of(kind, net.train(), groups, torch.Generator(), losses())
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_channels_that_nothing_tells_of_compare_with_the_others():
    """By their weights, whose mean is 1, on the scale of those that are told: what a transposed convolution reads is not."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ConvTranspose2d(6, 4, 3), nn.Conv2d(4, 3, 3)).double().eval()
    found = groups_of(traced(net, (X,)), net)
    runs = [lambda module: module(100 * X).mean()]
    first, second = activity(net, found, runs)
    assert first is None
    scores, notes = scores_of("activation", net, found, torch.Generator(), runs)
    np.testing.assert_allclose(scores[0], magnitudes(net, found, 2)[0] * second.mean(), rtol=1e-12)
    np.testing.assert_array_equal(scores[1], second)
    assert notes == ["by their weights, since activation says nothing of them: 0"]


def test_scoring_leaves_no_trace(net, groups):
    net.train()
    net.a.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for kind in ("taylor", "hessian", "activation"):
        scores_of(kind, net, groups, torch.Generator(), losses())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training
    assert not net.a.weight.requires_grad
    assert all(each.grad is None for each in net.parameters())
    assert not any(each._forward_pre_hooks for each in net.modules())


@pytest.mark.parametrize("kind", ["l2", "taylor", "hessian", "activation"])
def test_scores_follow_what_the_loss_of_a_channel_costs(kind):
    """Rank correlation with the loss on other samples after each channel alone is set to zero."""
    x, y, _, _ = digits()
    module = model_of("mlp").module.eval()
    found = groups_of(traced(module, (x[:1],)), module)
    taught = [lambda net, at=at: F.cross_entropy(net(x[at : at + 16]), y[at : at + 16]) for at in range(0, 96, 16)]
    scores, _ = scores_of(kind, module, found, torch.Generator(), taught)
    for group, each in zip(found, scores, strict=True):
        costs = []
        for i in range(len(group)):
            cut = copied(module)
            own = dict(cut.named_parameters())
            with torch.no_grad():
                for place in group.places:
                    if place.name in own:
                        own[place.name].index_fill_(place.dim, torch.from_numpy(np.flatnonzero(place.owner == i)), 0)
                costs.append(float(F.cross_entropy(cut(x[96:]), y[96:])))
        assert spearmanr(each, costs).statistic > 0.3
