"""Branches become one layer, and the answers stay."""

import copy

import pytest
import torch
from torch import nn

from kdsearch.builtin.channels.pruner import Channels, ChannelsOptions
from kdsearch.builtin.onnx_exporter import OnnxExporter, OnnxOptions
from kdsearch.deploy.parity import compare, module_call
from kdsearch.kinds import IO, Field, Graph, Model
from kdsearch.kit.folding import folded
from tests.builtin.channels.bare import bare
from tests.deploy.nets import batch_of

X = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(0))


class Two(nn.Module):
    """A convolution and an identity, which `reparameterize` makes one convolution."""

    def __init__(self, wrong=False, fails=False):
        super().__init__()
        self.conv, self.one, self.wrong, self.fails = nn.Conv2d(4, 4, 1), None, wrong, fails

    def forward(self, x):
        return self.one(x) if self.one is not None else self.conv(x) + x

    def reparameterize(self):
        one = copy.deepcopy(self.conv)
        with torch.no_grad():
            one.weight += torch.eye(4)[:, :, None, None] * (2 if self.wrong else 1)
        self.one = one
        if self.fails:
            raise RuntimeError("half-way")
        del self.conv


class Normed(nn.Module):
    """`fuse` answers with what takes its place."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        return self.norm(self.conv(x))

    def fuse(self):
        return nn.utils.fuse_conv_bn_eval(self.conv, self.norm)


def convolutions(net):
    return sum(isinstance(each, nn.Conv2d | nn.BatchNorm2d) for each in net.modules())


def test_branches_are_folded_into_a_copy():
    torch.manual_seed(0)
    net = nn.Sequential(Two(), nn.ReLU(), nn.Sequential(Normed(), Two())).eval()
    before = copy.deepcopy(net.state_dict())
    small = folded(net, [X])
    assert type(small[2][0]) is nn.Conv2d
    assert small[0].one is not None
    assert (convolutions(net), convolutions(small)) == (4, 3)
    assert torch.allclose(small(X), net(X), atol=1e-6)
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


class Chosen(nn.Module):
    """Answers with which values are positive."""

    def __init__(self, part):
        super().__init__()
        self.part = part

    def forward(self, x):
        return self.part(x) > 0


def test_answers_of_any_type_are_compared_and_what_cannot_be_copied_stays():
    torch.manual_seed(0)
    assert type(folded(Chosen(Normed()).eval(), [X]).part) is nn.Conv2d
    wrong = Chosen(Two(wrong=True)).eval()
    assert folded(wrong, [X]) is wrong
    net = nn.Sequential(Normed()).eval()
    net.kept = net[0].conv.weight * 2  # a tensor with a graph
    assert folded(net, [X]) is net


def test_what_folds_wrongly_or_not_at_all_stays():
    torch.manual_seed(0)
    wrong = nn.Sequential(Two(wrong=True)).eval()
    assert folded(wrong, [X]) is wrong
    plain = nn.Sequential(nn.Conv2d(4, 4, 1))
    assert folded(plain, [X]) is plain
    halfway = folded(nn.Sequential(Two(fails=True), Normed()).eval(), [X])
    assert halfway[0].one is None
    assert type(halfway[1]) is nn.Conv2d


class Sized(nn.Module):
    """Branches of a convolution and a norm, or a norm alone, folded into a layer of the numbers that were kept at the start."""

    def __init__(self, dim, alone):
        super().__init__()
        self.in_chs, self.out_chs, self.groups, self.dim = dim, dim, dim, dim
        self.norm, self.one = nn.BatchNorm2d(dim), None
        self.conv = None if alone else nn.Conv2d(dim, dim, 1, groups=dim, bias=False)

    def forward(self, x):
        if self.one is not None:
            return self.one(x)
        return self.norm(x) if self.conv is None else self.conv(x) + self.norm(x)

    def reparameterize(self):
        one = nn.Conv2d(self.in_chs, self.out_chs, 1, groups=self.groups)
        factor = self.norm.weight / (self.norm.running_var + self.norm.eps).sqrt()
        shift = self.norm.bias - self.norm.running_mean * factor
        whole = factor[:, None, None, None] + (0 if self.conv is None else self.conv.weight)
        one.load_state_dict({"weight": whole, "bias": shift})
        self.one, self.norm, self.conv = one, nn.Identity(), None


def test_folding_draws_nothing_from_the_stream_of_whoever_asks():
    """Layers that a fold makes are initialised at random before they get their weights."""
    torch.manual_seed(0)
    net = nn.Sequential(Sized(4, False)).eval()
    torch.manual_seed(1)
    assert type(folded(net, [X])[0].one) is nn.Conv2d
    drawn = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(3))


def test_a_part_that_was_pruned_folds_by_the_numbers_that_it_keeps():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 12, 1), Sized(12, False), Sized(12, True), nn.Flatten(), nn.Linear(432, 3)).eval()
    for each in (net[1].norm, net[2].norm):
        each.running_mean.normal_(0, 0.1)
    io = IO((Field("image", "image", (4, 6, 6)),), (Field("logits", "logits", (3,)),))
    given = bare(Model(net, ("image",)), io)
    pruner = Channels(ChannelsOptions(params=0.7, round_to=1))
    small = pruner.apply(given.model, pruner.plan(given)).module
    left = small[0].out_channels
    assert left < 12
    assert {each.dim for each in (small[1], small[2])} == {left}
    found = folded(small, [X])
    assert all(isinstance(each.one, nn.Conv2d) and each.one.groups == left for each in (found[1], found[2]))
    assert torch.allclose(found(X), small(X), atol=1e-5)


@pytest.mark.parametrize("name", ["repvgg_a0", "mobileone_s0", "fastvit_t8"])
def test_networks_of_timm_fold_also_when_they_are_pruned(name, tmp_path):
    import timm

    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=10).eval()
    for each in net.modules():
        if isinstance(each, nn.BatchNorm2d):
            each.running_mean.normal_(0, 0.1)
            each.running_var.uniform_(0.5, 1.5)
    io = IO((Field("image", "image", (3, 64, 64)),), (Field("logits", "logits", (10,)),))
    given = bare(Model(net, ("image",)), io)
    pruner = Channels(ChannelsOptions(macs=0.7))
    for each in (net, pruner.apply(given.model, pruner.plan(given)).module):
        x = torch.randn(2, 3, 64, 64)
        small = folded(each, [x])
        assert convolutions(small) < convolutions(each) / 2
        graph = Graph(each, io.inputs, io.outputs)
        exporter = OnnxExporter(OnnxOptions())
        exporter.write(graph, batch_of(image=x), tmp_path / "net.onnx")
        found = compare(
            module_call(graph), exporter.load(tmp_path / "net.onnx"), io.inputs, io.outputs, batch_of(image=x)
        )
        assert found.max_abs < 1e-4 * max(1.0, float(each(x).detach().abs().max()))


class Asking(Two):
    """What needs an argument is no such method, and is not called."""

    def reparameterize(self, scale):
        raise AssertionError


def test_a_method_that_needs_an_argument_is_another_one():
    net = Asking()
    assert folded(net, (X,)) is net
