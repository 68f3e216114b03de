"""Networks that other dependency graphs break on: each is pruned, and the cut network is the network with zeros."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kdsearch.builtin.channels import groups, tracing
from kdsearch.builtin.channels.exact import difference, redrawn
from kdsearch.builtin.channels.pruner import Channels, ChannelsOptions
from kdsearch.builtin.channels.surgery import Cut, masked_copy
from kdsearch.errors import RefusedError
from kdsearch.kinds import IO, Field, Model
from kdsearch.kit.costs import count_module
from tests.builtin.channels.bare import bare

IMAGE = Field("image", "image", (3, 8, 8))
TOKENS = Field("tokens", "tokens", (None,), "int64", n_values=20)


class Shuffle(nn.Module):
    """Two branches whose channels are dealt out to the next block's two branches."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 1)
        self.inner = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(8, 24, 1), nn.ReLU(), nn.Conv2d(24, 8, 1)) for _ in range(2)]
        )
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.stem(x)
        for each in self.inner:
            a, b = x.chunk(2, 1)
            x = torch.cat([a, each(b).relu()], 1)
            n, c, h, w = x.shape
            x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(x.mean((2, 3)))


class Mixer(nn.Module):
    """One MLP over places, one over channels."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 2, 2)
        self.norm, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.tokens = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16))
        self.channels = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norm(x).transpose(1, 2)).transpose(1, 2)
        return self.head((x + self.channels(self.norm2(x))).mean(1))


class Branches(nn.Module):
    """Sums of a 3x3, a 1x1 and an identity branch with norms, as before they are folded; a per-channel scale on top."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 1, 1)
        self.three = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16))
        self.one = nn.Sequential(nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16))
        self.same = nn.BatchNorm2d(16)
        self.scale = nn.Parameter(torch.rand(16, 1, 1))
        self.last, self.head = nn.Conv2d(16, 24, 3, 2, 1, groups=1), nn.Linear(24, 10)

    def forward(self, x):
        x = self.stem(x)
        x = (self.three(x) + self.one(x) + self.same(x)).relu() * self.scale
        return self.head(self.last(x).sigmoid().mean((2, 3)))


class Ghost(nn.Module):
    """Half of the channels are cheap copies of the others; an odd number of them is cut off."""

    def __init__(self):
        super().__init__()
        self.first, self.cheap = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 12, 3, 1, 1, groups=12)
        self.gate, self.open = nn.Conv2d(24, 6, 1), nn.Conv2d(6, 24, 1)
        self.last, self.head = nn.Conv2d(24, 16, 1), nn.Linear(16, 10)

    def forward(self, x):
        a = self.first(x).relu()
        x = torch.cat([a, self.cheap(a).relu()], 1)[:, :24]
        x = x * F.hardsigmoid(self.open(self.gate(x.mean((2, 3), keepdim=True)).relu()))
        return self.head(self.last(x).relu().mean((2, 3)))


class Glu(nn.Module):
    """One half of a layer's outputs gates the other."""

    def __init__(self):
        super().__init__()
        self.both, self.last = nn.Linear(192, 48), nn.Linear(24, 10)

    def forward(self, x):
        value, gate = self.both(x.flatten(1)).chunk(2, -1)
        return self.last(value * gate.sigmoid())


class Windows(nn.Module):
    """Attention within windows of 2x2 places, with a bias by relative place and a cyclic shift."""

    def __init__(self, width=24, heads=6):
        super().__init__()
        self.num_heads, self.width = heads, width
        self.patches, self.norm = nn.Conv2d(3, width, 2, 2), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.bias = nn.Parameter(torch.randn(9, heads))
        self.register_buffer("place", torch.randint(0, 9, (16,), generator=torch.Generator().manual_seed(0)))
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        x = self.patches(x).permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        y = torch.roll(self.norm(x), (-1, -1), (1, 2))
        y = y.view(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        q, k, v = self.qkv(y).reshape(len(y), 4, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / 2 + self.bias[self.place].view(4, 4, -1).permute(2, 0, 1)
        y = self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(len(y), 4, -1))
        y = y.view(b, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        return self.head((x + torch.roll(y, (1, 1), (1, 2))).mean((1, 2)))


class Recurrent(nn.Module):
    def __init__(self, kind=nn.LSTM):
        super().__init__()
        self.embed, self.layer = nn.Embedding(20, 12), kind(12, 20, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(40, 10)

    def forward(self, tokens):
        return self.head(self.layer(self.embed(tokens))[0].mean(1))


class Gru(Recurrent):
    def __init__(self):
        super().__init__(nn.GRU)


class Up(nn.Module):
    """Grouped and transposed convolutions, a group norm, a skip, pixels shuffled up."""

    def __init__(self):
        super().__init__()
        self.down, self.deep = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 32, 3, 1, 1, groups=4)
        self.norm, self.up = nn.GroupNorm(4, 32), nn.ConvTranspose2d(32, 16, 2, 2)
        self.wide, self.last = nn.Conv2d(16, 32, 1), nn.Conv2d(24, 4, 1)

    def forward(self, x):
        a = self.down(x).relu()
        up = self.up(self.norm(self.deep(a)).relu())
        return self.last(torch.cat([up, F.pixel_shuffle(self.wide(a), 2)], 1))


PATTERNS = [Shuffle, Mixer, Branches, Ghost, Glu, Windows, Recurrent, Gru, Up]


def made(kind):
    torch.manual_seed(0)
    net = kind().eval()
    for each in net.modules():
        if isinstance(each, nn.BatchNorm2d):
            each.running_mean.normal_()
            each.running_var.uniform_(0.5, 2)
            nn.init.uniform_(each.weight, 0.5, 1.5)
            nn.init.normal_(each.bias)
    return net


def subject(net, field):
    io = IO((field,), (Field("logits", "logits", (10,)),))
    return bare(Model(net, (field.name,)), io)


def field_of(kind):
    return TOKENS if issubclass(kind, Recurrent) else IMAGE


def test_inputs(kind):
    return field_of(kind).noise(5, torch.Generator().manual_seed(1))


test_inputs.__test__ = False


@pytest.mark.parametrize("kind", PATTERNS)
def test_it_is_pruned_exactly(kind):
    net, x = made(kind), test_inputs(kind)
    given = subject(net, field_of(kind))
    pruner = Channels(ChannelsOptions(macs=0.7, round_to=1))
    plan = pruner.plan(given)
    small = pruner.apply(given.model, plan).module
    one = (field_of(kind).noise(1, torch.Generator()),)
    assert 0.5 < count_module(small, one).macs / count_module(net, one).macs <= 0.7
    [step] = plan.edits["steps"]
    cut = Cut.from_json(step)
    for (name, dim), gone in cut.slices.items():  # what is left is the weights as they were, in their order
        stay = [i for i in range(net.state_dict()[name].shape[dim]) if i not in gone]
        assert small.state_dict()[name].shape[dim] == len(stay)
    assert difference(net, cut, (x,)) == ""
    if kind not in (Mixer, Windows, Up):  # norms over channels look at those that stay
        with torch.no_grad():
            assert torch.allclose(small(x), masked_copy(net, cut)(x), atol=1e-5)


def test_heads_go_whole():
    net = made(Windows)
    pruner = Channels(ChannelsOptions(macs=0.7, round_to=1, include=("qkv",), exclude=("patches",)))
    given = subject(net, IMAGE)
    small = pruner.apply(given.model, pruner.plan(given)).module
    heads = small.num_heads
    assert 0 < heads < 6
    assert small.qkv.weight.shape == (12 * heads, 24)
    assert small.proj.weight.shape == (24, 4 * heads)
    assert small.bias.shape == (9, heads)
    rows = {tuple(row.tolist()) for row in net.qkv.weight.detach().reshape(3, 6, 4, 24).transpose(0, 1).reshape(6, -1)}
    left = [
        tuple(row.tolist())
        for row in small.qkv.weight.detach().reshape(3, heads, 4, 24).transpose(0, 1).reshape(heads, -1)
    ]
    assert len(set(left)) == heads
    assert set(left) <= rows


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_units_of_recurrent_layers_are_those_of_every_gate(kind):
    net = made(Recurrent if kind is nn.LSTM else Gru)
    pruner = Channels(ChannelsOptions(macs=0.6, round_to=2, exclude=("embed",)))
    given = subject(net, TOKENS)
    plan = pruner.plan(given)
    small = pruner.apply(given.model, plan).module
    n = small.layer.hidden_size
    assert n < 20
    assert n % 2 == 0
    cut = Cut.from_json(plan.edits["steps"][0])
    gone = cut.slices["layer.weight_hh_l0", 1]
    stay = [i for i in range(20) if i not in gone]
    gates = 4 if kind is nn.LSTM else 3
    full = net.layer.weight_ih_l0.detach().reshape(gates, 20, 12)[:, stay].reshape(gates * n, 12)
    assert torch.equal(small.layer.weight_ih_l0, full)
    assert small(test_inputs(Recurrent)).shape == (5, 10)


class Wired(nn.Module):
    """Its middle layer's width is written into the code, in a list that nothing can follow."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(192, 24), nn.Linear(24, 16), nn.Linear(16, 10)

    def forward(self, x):
        parts = self.a(x.flatten(1)).split([10, 14], 1)
        return self.c(self.b(torch.cat(parts, 1)).relu())


def test_what_cannot_be_cut_is_left_out_with_its_reason():
    given = subject(made(Wired), IMAGE)
    pruner = Channels(ChannelsOptions(macs=0.97, round_to=1))
    plan = pruner.plan(given)
    small = pruner.apply(given.model, plan).module
    assert small.a.out_features == 24
    assert small.b.out_features < 16
    [line] = [line for line in plan.log if line.startswith("left out")]
    assert line.startswith("left out: a (24): the cut network does not run: RuntimeError: split")
    assert any(line == "stays: c: they are outputs" for line in plan.log)
    with pytest.raises(RefusedError, match=r"left out: a \(24\): the cut network does not run"):
        Channels(ChannelsOptions(macs=0.5, round_to=1)).plan(given)


class Odd(nn.Module):
    """Sorted along its channels, which no rule knows; and looked at, which no shape alone can be."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(192, 24), nn.Linear(24, 16), nn.Linear(16, 10)

    def forward(self, x):
        x = self.a(x.flatten(1)).sort(1).values
        return self.c(self.b(x).relu()) * (1 if float(x.abs().max()) > 0 else 2)


def test_operators_without_a_rule_and_values_that_decide():
    given = subject(made(Odd), IMAGE)
    pruner = Channels(ChannelsOptions(macs=0.97, round_to=1))
    plan = pruner.plan(given)
    small = pruner.apply(given.model, plan).module
    assert (small.a.out_features, small.b.out_features < 16) == (24, True)
    assert "stays: a: 'sort' reads them" in plan.log


def test_an_operator_that_is_called_as_no_rule_knows(monkeypatch):
    """What it reads stays, and all else goes."""

    def unknown(tracer, *args, **kwargs):
        raise IndexError("no such form")

    monkeypatch.setitem(tracing.RULES, torch.ops.aten.relu.default, unknown)
    net = made(lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 24), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 10)))
    assert (
        "stays: 2: 'relu' reads them" in Channels(ChannelsOptions(macs=0.9, round_to=1)).plan(subject(net, IMAGE)).log
    )


def test_a_wrong_cut_is_seen():
    """A reader that loses other columns, a statistic that stays in another channel's place."""
    net, x = made(Branches), test_inputs(Branches)
    places = [(name, dim) for name, value in net.state_dict().items() for dim, n in enumerate(value.shape) if n == 16]
    right = {place: [2, 5] for place in places}
    sizes = {path: {"in_channels": 14, "out_channels": 14} for path in ("three.0", "one.0")}
    sizes |= {path: {"num_features": 14} for path in ("three.1", "one.1", "same")}
    sizes |= {"stem": {"out_channels": 14}, "last": {"in_channels": 14}}
    assert difference(net, Cut(right, sizes), (x,)) == ""
    for place in places:
        wrong = {**right, place: [2, 6]}
        assert "differs from the masked one" in difference(net, Cut(wrong, sizes), (x,)), place
        missing = {each: gone for each, gone in right.items() if each != place}
        assert difference(net, Cut(missing, sizes), (x,)), place


def test_a_branch_that_zeros_hide_is_looked_at_with_other_weights():
    net = made(Branches)
    nn.init.zeros_(net.last.weight)
    right = {("last.weight", 1): [0], ("scale", 0): [1]}
    assert difference(net, Cut({("scale", 0): [1]}), (test_inputs(Branches),)).startswith(
        "the cut network does not run"
    )
    places = [(name, dim) for name, value in net.state_dict().items() for dim, n in enumerate(value.shape) if n == 16]
    right = {place: [2] for place in places} | {("scale", 0): [7]}
    assert difference(net, Cut(right), (test_inputs(Branches),)) == ""
    assert difference(redrawn(net), Cut(right), (test_inputs(Branches),))


def test_groups_are_tried_with_weights_drawn_anew(monkeypatch):
    """Once, the same at every try; the cut itself is that of the network's own."""
    tried, whole = [], groups.exact_cut

    def noted(module, *arguments, **named):
        tried.append(module.last.weight.detach())
        return whole(module, *arguments, **named)

    monkeypatch.setattr(groups, "exact_cut", noted)
    net = made(Branches)
    nn.init.zeros_(net.last.weight)
    plan = Channels(ChannelsOptions(macs=0.8, round_to=1)).plan(subject(net, IMAGE))
    assert plan.edits["steps"][0]["remove"]
    assert tried[0].any()
    assert all(torch.equal(each, tried[0]) for each in tried)
    assert not net.last.weight.any()


class Single(nn.Module):
    """Computes in float32 alone."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(192, 24), nn.Linear(24, 10)

    def forward(self, x):
        return self.last(self.first(x.flatten(1) @ torch.eye(192)).relu())


def test_a_network_that_does_not_run_in_double_precision_is_compared_in_single():
    net = made(Single)
    plan = Channels(ChannelsOptions(params=0.7, round_to=1)).plan(subject(net, IMAGE))
    cut = Cut.from_json(plan.edits["steps"][0])
    assert cut.slices["last.weight", 1] == cut.slices["first.weight", 0] != []
    x = IMAGE.noise(3, torch.Generator())
    assert difference(net, cut, (x,)).startswith("the cut network does not run")
    assert difference(net, cut, (x,), torch.float32) == ""


class Helped(nn.Module):
    """A second head on an inner layer helps in training, and runs there alone."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 24, 3)
        self.help, self.head = nn.Linear(16, 10), nn.Linear(24, 10)

    def forward(self, x):
        inner = self.first(x).relu()
        answer = self.head(self.second(inner).relu().mean((2, 3)))
        return answer + self.help(inner.mean((2, 3))) if self.training else answer


def test_what_a_branch_of_training_reads_stays():
    net = Helped()
    given = subject(net, IMAGE)
    pruner = Channels(ChannelsOptions(macs=0.7, importance="random"))
    plan = pruner.plan(given)
    small = pruner.apply(given.model, plan).module
    assert small.second.out_channels < 24
    assert small.first.out_channels == 16
    assert any(
        line.startswith("left out: first (16): the cut network does not run in training: RuntimeError")
        for line in plan.log
    )
    assert small.train()(torch.zeros(2, 3, 8, 8)).shape == (2, 10)


class Reversed(nn.Module):
    """Places are turned round by number, as `gather` does it for a recurrent layer of two directions."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Conv1d(3, 16, 1), nn.Conv1d(16, 24, 1), nn.Linear(24, 10)

    def forward(self, x):
        x = self.first(x.flatten(2))
        order = torch.arange(x.shape[2] - 1, -1, -1, device=x.device).view(1, 1, -1).expand(x.shape)
        return self.head(self.second(x.gather(2, order)).relu().mean(2))


def test_channels_pass_what_reads_places_by_number():
    net = Reversed().eval()
    given = subject(net, IMAGE)
    pruner = Channels(ChannelsOptions(macs=0.4, scope="layer", importance="random"))
    plan = pruner.plan(given)
    small = pruner.apply(given.model, plan).module
    assert small.first.out_channels < 16
    assert small.second.out_channels < 24
    whole, x = masked_copy(net, Cut.from_json(plan.edits["steps"][0])), IMAGE.noise(3, torch.Generator())
    torch.testing.assert_close(small(x), whole(x))


class OwnShuffle(nn.Module):
    """torch's own shuffle between grouped convolutions, and its leaky unit of random slope."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 24, 3, groups=3), nn.Conv2d(24, 24, 3, groups=2)
        self.middle = nn.Sequential(nn.RReLU(), nn.ChannelShuffle(2))
        self.last, self.head = nn.Conv2d(24, 32, 1), nn.Linear(32, 10)

    def forward(self, x):
        x = self.middle(self.second(self.first(x)))
        return self.head(self.last(x).relu().mean((2, 3)))


def test_channels_are_followed_through_torch_s_own_shuffle():
    net = OwnShuffle().eval()
    given = subject(net, IMAGE)
    pruner = Channels(ChannelsOptions(macs=0.5, importance="random", round_to=1, scope="layer"))
    plan = pruner.plan(given)
    small, whole = pruner.apply(given.model, plan).module, masked_copy(net, Cut.from_json(plan.edits["steps"][0]))
    x = IMAGE.noise(3, torch.Generator())
    assert small.second.out_channels == small.last.in_channels < 24
    torch.testing.assert_close(small(x), whole(x))


class Spare(nn.Module):
    """A layer that no pass runs, between two that it does."""

    def __init__(self):
        super().__init__()
        self.first, self.spare, self.head = nn.Linear(8, 32), nn.Linear(8, 64), nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.first(x).relu())


def test_a_layer_that_nothing_reads_stays_whole():
    given = subject(Spare().eval(), Field("x", "vector", (8,)))
    pruner = Channels(ChannelsOptions(params=0.8))
    plan = pruner.plan(given)
    small = pruner.apply(given.model, plan).module
    assert small.spare.weight.shape == (64, 8)
    assert small.spare.bias.shape == (64,)
    assert small.first.out_features < 32
    assert "stays: spare: nothing here reads them" in plan.log
