"""Numbers that several axes have in common: each follows the axis that it stands for in a call, and no other."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from kdsearch.builtin.channels.exact import difference
from kdsearch.builtin.channels.noted import note, sized_by
from kdsearch.builtin.channels.pruner import Channels, ChannelsOptions
from kdsearch.builtin.channels.surgery import Cut, masked_copy
from kdsearch.errors import RefusedError
from tests.builtin.channels.test_patterns import IMAGE, TOKENS, subject


class Bias(nn.Module):
    """A bias for each head and two places, asked for by a method: no forward pass of this module is seen."""

    def __init__(self, heads, places):
        super().__init__()
        self.table = nn.Parameter(torch.randn(9, heads))
        self.shape = (places, places, heads)
        self.register_buffer("index", torch.arange(places * places) % 9)

    def get(self):
        return self.table[self.index].view(self.shape).permute(2, 0, 1)


class Alike(nn.Module):
    """Four heads of keys of four over four places; values are wider."""

    def __init__(self, heads=4, key=4, value=8):
        super().__init__()
        self.heads, self.key_dim, self.value_dim, self.places = heads, key, value, 4
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.qkv = nn.Linear(16, heads * (2 * key + value))
        self.bias = Bias(heads, 4)
        self.proj, self.head = nn.Linear(heads * value, 16), nn.Linear(16, 10)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)  # (B, 4, 16)
        parts = self.qkv(x).view(len(x), self.places, self.heads, -1)
        q, k, v = parts.split([self.key_dim, self.key_dim, self.value_dim], dim=3)
        q, k, v = (each.transpose(1, 2) for each in (q, k, v))
        mixed = (q @ k.transpose(2, 3) / 2 + self.bias.get()).softmax(-1) @ v
        return self.head((x + self.proj(mixed.transpose(1, 2).reshape(len(x), self.places, -1))).mean(1))


@pytest.mark.parametrize("sizes", [(4, 4, 8), (4, 4, 4), (3, 4, 4), (4, 6, 8)])
def test_heads_keys_and_values_all_go(sizes):
    torch.manual_seed(0)
    net = Alike(*sizes).eval()
    given = subject(net, IMAGE)
    pruner = Channels(ChannelsOptions(macs=0.4, round_to=1, importance="random"))
    plan = pruner.plan(given)
    assert not [line for line in plan.log if line.startswith("left out")]
    small = pruner.apply(given.model, plan).module
    x = IMAGE.noise(3, torch.Generator().manual_seed(0))
    assert difference(net, Cut.from_json(plan.edits["steps"][0]), (x,)) == ""
    assert small.places == 4
    assert small.qkv.out_features == small.heads * (2 * small.key_dim + small.value_dim)
    assert small.proj.in_features == small.heads * small.value_dim
    assert small.bias.shape == (4, 4, small.heads)
    assert type(small.bias.shape) is tuple


class Limited(nn.Module):
    """Reads at most `most` tokens; its width happens to be as many, and its code reshapes by a number computed from `wide`."""

    def __init__(self, wide="wide"):
        super().__init__()
        self.most = self.wide = 16
        self.key = wide
        self.embedding, self.inner, self.head = nn.Embedding(20, 16), nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, tokens):
        x = self.inner(self.embedding(tokens[:, : self.most])).relu().mean(1, keepdim=True)
        return self.head(x.view(-1, 1 * getattr(self, self.key)))


def planned(net):
    given = subject(net, replace(TOKENS, open_size=8))
    pruner = Channels(ChannelsOptions(macs=0.6, round_to=1, importance="random", exclude=("embedding",)))
    plan = pruner.plan(given)
    return plan, pruner.apply(given.model, plan).module


def test_a_number_that_only_equals_a_width_stays():
    """What the check needs follows and nothing beside it, so that the cut network answers at lengths that no probe has."""
    net = Limited().eval()
    plan, small = planned(net)
    assert small.inner.out_features == small.wide < small.most == 16
    whole = masked_copy(net, Cut.from_json(plan.edits["steps"][0]))
    for n in (8, 15, 16, 30):
        x = torch.randint(20, (3, n), generator=torch.Generator().manual_seed(n))
        torch.testing.assert_close(small(x), whole(x))


def test_a_number_with_two_meanings_keeps_its_layer():
    """At the length of the first probe the cut one answers alike; at twice the length it reads fewer tokens."""
    with pytest.raises(RefusedError, match=r"left out: inner .*differs from the masked one"):
        planned(Limited("most").eval())


def test_only_what_stands_in_a_call_itself_counts():
    net = Alike()
    note(net)
    x = torch.zeros(2, 64)
    found = [
        *sized_by(torch.Tensor.view, (x, 2, net.heads, -1), {}, x.view(2, 4, -1)),
        *sized_by(torch.Tensor.reshape, (x, (2, 2 * net.heads, net.value_dim)), {}, x.reshape(2, 8, 8)),
        *sized_by(torch.Tensor.split, (x, [net.key_dim, 60]), {"dim": 1}, x.split([4, 60], 1)),
    ]
    assert [(each.name, tensor.shape[dim]) for each, tensor, dim in found] == [
        ("heads", 4),
        ("value_dim", 8),
        ("key_dim", 4),
    ]
    assert not hasattr(net.heads * 1, "name")


class Kept(nn.Module):
    """Keeps of its layer what it is wide for later; no pass reads it."""

    def __init__(self):
        super().__init__()
        self.dim, self.layer = 24, nn.Linear(192, 24)

    def forward(self, x):
        return self.layer(x)


def test_what_a_module_keeps_of_its_layers_follows_at_every_depth():
    net = nn.Sequential(nn.Flatten(), Kept(), nn.ReLU(), nn.Linear(24, 10)).eval()
    nested = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Sequential(Kept())), nn.ReLU(), nn.Linear(24, 10)).eval()
    for whole, path in ((net, "1"), (nested, "1.0.0")):
        pruner, given = Channels(ChannelsOptions(params=0.6, round_to=1)), subject(whole, IMAGE)
        kept = pruner.apply(given.model, pruner.plan(given)).module.get_submodule(path)
        assert kept.dim == kept.layer.out_features < 24


class Masked(nn.Module):
    """A weight of which some are zero."""

    def __init__(self, weight):
        super().__init__()
        self.register_buffer("mask", (weight.detach().abs() > 0.01).float())

    def forward(self, weight):
        return weight * self.mask


@pytest.mark.parametrize(
    "mask",
    [
        lambda layer: parametrize.register_parametrization(layer, "weight", Masked(layer.weight)),
        lambda layer: prune.random_unstructured(layer, "weight", 0.3),
    ],
    ids=["parametrize", "prune"],
)
def test_numbers_of_layers_whose_weight_is_computed_follow(mask):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU(), nn.Conv2d(24, 24, 3, groups=24),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10),
    )  # fmt: skip
    for at in (2, 4):
        mask(net[at])
    given = subject(net.eval(), IMAGE)
    pruner = Channels(ChannelsOptions(macs=0.4))
    small = pruner.apply(given.model, pruner.plan(given)).module
    first, second, last = small[0], small[2], small[4]
    small(torch.randn(2, 3, 8, 8))
    assert (
        second.weight.shape[:2] == (second.out_channels, second.in_channels) == (last.in_channels, first.out_channels)
    )
    assert last.in_channels == last.out_channels == last.groups == len(last.weight) == small[7].in_features < 24


def test_a_norm_without_weights_keeps_the_number_that_it_reads():
    """torch warns of an instance norm that reads others."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.InstanceNorm2d(16), nn.ReLU(), nn.Conv2d(16, 24, 3),
        nn.BatchNorm2d(24, affine=False, track_running_stats=False),
        nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(24, 10),
    )  # fmt: skip
    given = subject(net.eval(), IMAGE)
    pruner = Channels(ChannelsOptions(macs=0.4))
    small = pruner.apply(given.model, pruner.plan(given)).module
    assert small[1].num_features == small[0].out_channels < 16
    assert small[4].num_features == small[3].out_channels < 24
    assert small(torch.randn(2, 3, 8, 8)).shape == (2, 10)
