"""Pruned networks meet the target, are what their plan replays to, and leave the original alone."""

import json

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from kdsearch.builtin.channels.pruner import Channels, ChannelsOptions
from kdsearch.builtin.onnx_exporter import OnnxExporter, OnnxOptions
from kdsearch.deploy.cost import count, count_module
from kdsearch.deploy.parity import compare, module_call
from kdsearch.errors import RefusedError, UserError
from kdsearch.kinds import IO, Field, Model, Plan, traced_taps
from kdsearch.kinds.options import declared_range, validate
from tests.builtin.channels.bare import bare
from tests.deploy.nets import DIGITS, NETS, Lstm, batch_of, digits, graph_of, trained

PATHS = {
    "residual": {"stage[0]": "stages.0", "stage[1]": "stages.1", "penultimate": "head"},
    "depthwise": {"stage[0]": "body.1", "stage[1]": "body", "penultimate": "head"},
    "mlp": {"penultimate": "5"},
    "vit": {"tokens": "mlp.0", "penultimate": "head"},
}


def model_of(name, net=None):
    net = net or trained(name)
    taps = traced_taps(net, [torch.zeros(2, 1, 8, 8)], PATHS[name], {"penultimate": "input"})
    return Model(net, ("image",), taps)


def subject(model, io=DIGITS):
    return bare(model, io)


def pruned(name, **options):
    """Model, plan after a trip through JSON, and the pruned model."""
    model, pruner = model_of(name), Channels(ChannelsOptions(**options))
    made = pruner.plan(subject(model))
    plan = Plan(json.loads(json.dumps(made.edits)), log=made.log)
    return model, plan, pruner.apply(model, plan)


@pytest.mark.parametrize(("importance", "size"), [("taylor", 32), ("hessian", 1), ("activation", 32), ("l2", None)])
def test_importances_see_as_many_samples_as_are_asked_for(importance, size):
    """Those of second order one at a time; those of weights none."""
    asked, given = [], subject(Model(nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 10)), ("image",)))
    given.batches = lambda n, size: asked.append((n, size)) or [batch_of(image=digits()[0][:4])]
    given.loss = lambda model, batch: model.module(batch["image"]).square().mean()
    plan = Channels(ChannelsOptions(macs=0.7, round_to=1, importance=importance, samples=7)).plan(given)
    assert plan.edits["steps"][0]["remove"]
    assert asked == ([] if size is None else [(7, size)])


class Either(nn.Module):
    """One of two layers by the sign of the input, what both share, and two layers beside them."""

    def __init__(self):
        super().__init__()
        self.plus, self.minus, self.head = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 3)
        self.own, self.out = nn.Linear(8, 64), nn.Linear(64, 3)

    def forward(self, x):
        chosen = self.plus(x) if x.sum() > 0 else self.minus(x)
        return self.head(chosen.relu()) + self.out(self.own(x).relu())


def test_what_branches_on_values_share_is_left_uncut():
    """Both ways answer as before but for the layers beside them, computed with what stays of these."""
    torch.manual_seed(0)
    net, io = Either().eval(), IO((Field("x", "vector", (8,)),), (Field("logits", "logits", (3,)),))
    model, pruner = Model(net, ("x",)), Channels(ChannelsOptions(macs=0.8, round_to=1))
    cut = pruner.apply(model, pruner.plan(subject(model, io))).module
    assert [cut.plus.out_features, cut.minus.out_features, cut.head.in_features] == [16, 16, 16]
    assert cut.own.out_features == cut.out.in_features < 64
    with torch.no_grad():
        for sign in (1, -1):
            x = sign * torch.rand(4, 8)
            chosen = net.plus(x) if sign > 0 else net.minus(x)
            expected = net.head(chosen.relu()) + cut.out(cut.own(x).relu())
            torch.testing.assert_close(cut(x), expected)


def test_it_says_how_far_the_planning_is_and_can_be_stopped_there():
    told = []
    pruner = Channels(ChannelsOptions(macs=0.6, steps=2))
    pruner.watch = lambda share, what: told.append((share, what))
    pruner.plan(subject(model_of("residual")))
    shares, words = zip(*told, strict=True)
    assert list(shares) == sorted(shares)
    assert shares[0] == 0.0
    assert shares[-1] < 1.0
    assert [shares[i] for i, what in enumerate(words) if what == "following channels"] == [0.0, 0.5], "a round each"
    assert {what.split()[0] for what in words} == {"following", "trying", "importances", "cut"}

    def stop(share, what):
        raise InterruptedError(what)

    pruner.watch = stop
    with pytest.raises(InterruptedError, match="following channels"):
        pruner.plan(subject(model_of("residual")))


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("name", list(NETS))
def test_the_target_holds_closely_and_shapes_of_taps_are_true(name, scope):
    model, plan, small = pruned(name, macs=0.6, scope=scope, round_to=1)
    share = count(small, DIGITS).macs / count(model, DIGITS).macs
    assert 0.54 < share <= 0.6
    assert small.cost() == count(small, DIGITS)
    assert small.cost().params < count(model, DIGITS).params
    out = small.module(digits()[2][:3])
    assert out.shape == (3, 10)
    seen = {}
    for tap in small.taps:
        part = small.module.get_submodule(tap.path)
        part.register_forward_hook(
            lambda _, args, made, tap=tap: seen.update({tap.name: (args[0] if tap.side == "input" else made).shape[1:]})
        )
    small.module(digits()[2][:3])
    assert {tap.name: tuple(tap.shape) for tap in small.taps} == {name: tuple(shape) for name, shape in seen.items()}
    assert [(tap.name, tap.path, tap.kind, tap.stride, tap.side) for tap in small.taps] == [
        (tap.name, tap.path, tap.kind, tap.stride, tap.side) for tap in model.taps
    ]
    assert [tap.shape for tap in small.taps] != [tap.shape for tap in model.taps]
    assert any("MACs" in line for line in plan.log)


@pytest.mark.parametrize("name", list(NETS))
def test_a_plan_replays_on_fresh_models(name):
    model, plan, small = pruned(name, macs=0.7, steps=2)
    before = {key: value.clone() for key, value in model.module.state_dict().items()}
    again = Channels(ChannelsOptions()).apply(model_of(name), plan)
    for (key, one), (other, two) in zip(
        small.module.state_dict().items(), again.module.state_dict().items(), strict=True
    ):
        assert key == other
        assert torch.equal(one, two)
    fresh = Channels(ChannelsOptions()).apply(model_of(name, NETS[name]()), plan)
    shapes = {key: value.shape for key, value in fresh.module.state_dict().items()}
    assert shapes == {key: value.shape for key, value in small.module.state_dict().items()}
    x = digits()[2][:5]
    assert torch.equal(small.module(x), again.module(x))
    assert all(torch.equal(value, before[key]) for key, value in model.module.state_dict().items())


def test_channels_that_stay_keep_their_weights_and_the_least_go():
    """MLP without biases by hand: what is removed is what the numpy ranking says, what stays is a slice."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 12, bias=False), nn.ReLU(), nn.Linear(12, 10, bias=False))
    with torch.no_grad():
        order = torch.tensor([5, 2, 9, 0, 11, 7, 1, 3, 10, 4, 6, 8])
        net[1].weight.copy_(torch.ones(12, 64) * (order + 1)[:, None] / 100)
        net[3].weight.copy_(torch.ones(10, 12) * (order + 1)[None] / 100)
    model = Model(net, ("image",))
    pruner = Channels(ChannelsOptions(macs=0.5, round_to=1))
    plan = pruner.plan(subject(model))
    stay = [at for at in range(12) if order[at] >= 6]
    gone = [at for at in range(12) if order[at] < 6]
    assert plan.edits["steps"] == [
        {
            "remove": [{"index": gone, "of": [["1.weight", 0], ["3.weight", 1]]}],
            "attributes": {"1": {"out_features": 6}, "3": {"in_features": 6}},
            "opened": [],
        }
    ]
    small = pruner.apply(model, plan).module
    assert torch.equal(small[1].weight, net[1].weight[stay])
    assert torch.equal(small[3].weight, net[3].weight[:, stay])


def test_equal_results_as_zeroed_channels():
    """Removing a channel of a linear network is the same as zeroing it."""
    model, plan, small = pruned("mlp", macs=0.8, round_to=1)
    full = model.copy().module
    [step] = plan.edits["steps"]
    with torch.no_grad():
        for each in step["remove"]:
            for name, dim in each["of"]:
                if dim == 0:
                    full.get_parameter(name)[each["index"]] = 0
    x = digits()[2][:9]
    assert torch.allclose(full(x), small.module(x), atol=1e-5)


def test_the_less_important_half_matters_less():
    _, _, x, y = digits()
    accuracy = {
        kind: (pruned("mlp", macs=0.5, importance=kind)[2].module(x).argmax(1) == y).float().mean()
        for kind in ("l2", "l1", "random")
    }
    assert min(accuracy["l2"], accuracy["l1"]) > accuracy["random"] + 0.02


def test_random_is_reproducible_and_differs_from_magnitude():
    plans = [pruned("residual", importance=kind)[1].edits for kind in ("random", "random", "l2")]
    assert plans[0] == plans[1] != plans[2]


@pytest.mark.parametrize("round_to", [1, 4, 8])
def test_kept_channels_are_multiples(round_to):
    _, _, small = pruned("residual", macs=0.5, round_to=round_to)
    for module in small.module.modules():
        if isinstance(module, nn.Conv2d):
            assert module.out_channels % round_to == 0
    assert small.cost().macs <= 0.5 * count_module(trained("residual"), [torch.zeros(1, 1, 8, 8)]).macs


def test_groups_that_fall_together_are_given_back():
    """At a multiple of 4 every layer of the residual network shrinks at one level: 0.30 of the MACs without giving back."""
    model, _, small = pruned("residual", macs=0.5, scope="layer", importance="l1", round_to=4)
    assert 0.36 < small.cost().macs / count(model, DIGITS).macs <= 0.5


def test_params_alone_and_both_targets():
    model, _, small = pruned("residual", macs=None, params=0.4, round_to=1)
    full = count(model, DIGITS)
    assert 0.3 < small.cost().params / full.params <= 0.4
    both = pruned("residual", macs=0.6, params=0.4, round_to=1)[2].cost()
    assert both.params <= 0.4 * full.params
    assert both.macs <= 0.6 * full.macs


def test_without_a_target_it_is_seven_tenths_of_the_macs():
    model, _, small = pruned("residual")
    assert 0.6 < small.cost().macs / count(model, DIGITS).macs <= 0.7


@pytest.mark.parametrize(("kind", "each"), [("onnx-fp32", 4), ("onnx-int8", 1), ("onnx-int4", 0.5 + 4 / 32)])
def test_bytes_of_a_format(kind, each):
    """The mlp of 64-128-128-10 by hand: matrices in the format, biases in fp32."""
    whole = each * (64 * 128 + 128 * 128 + 1280) + 4 * 266
    _, plan, small = pruned("mlp", bytes=round(0.6 * whole), format=kind, round_to=1)
    sizes = [value.numel() * (each if value.dim() > 1 else 4) for value in small.module.parameters()]
    assert 0.57 * whole < sum(sizes) <= 0.6 * whole
    assert any(line.startswith(f"bytes of the weights as {kind}: {whole:,.0f} -> ") for line in plan.log)


def test_a_target_of_one_changes_nothing():
    model, plan, small = pruned("residual", macs=1.0)
    assert plan.edits["steps"] == [{"remove": [], "attributes": {}, "opened": []}]
    assert small.cost() == count(model, DIGITS)
    x = digits()[2][:3]
    assert torch.equal(small.module(x), model.module(x))


def test_what_cannot_be_reached_is_refused_with_what_can():
    with pytest.raises(
        RefusedError, match=r"reaches 0\.\d+ of the MACs.*; stays: .*head.*: they are outputs"
    ) as caught:
        pruned("vit", macs=0.01)
    assert caught.value.exit_code == 3
    with pytest.raises(RefusedError, match="0 groups"):
        pruned("mlp", macs=0.5, exclude=("*",))


def test_kept_layers_keep_their_channels():
    _, _, small = pruned("residual", macs=0.8, exclude=("stages.1.*",))
    assert small.module.head.in_features == 32
    assert small.module.stages[1].conv1.out_channels == 32


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"exclude": ("fc*", "stm")}, r"options\.exclude\[0\]: 'fc\*' matches no layer of this network"),
        ({"exclude": ("hed",)}, r"options\.exclude\[0\]: 'hed' matches no layer of this network; did you mean 'head'"),
        ({"include": ("stages",)}, r"options\.include\[0\]: 'stages' .*a glob on paths such as .*stages\.0"),
    ],
)
def test_a_glob_that_names_nothing_is_found_before_any_work(options, said):
    with pytest.raises(UserError, match=said):
        Channels(ChannelsOptions(**options)).preflight(model_of("residual"), DIGITS)
    Channels(ChannelsOptions(exclude=("stages.0.*", "head"))).preflight(model_of("residual"), DIGITS)


def test_modes_and_frozen_weights_stay_as_they_were():
    model = model_of("residual")
    model.module.train().stages[1].eval()
    model.module.stem[0].weight.requires_grad_(False)
    pruner = Channels(ChannelsOptions())
    small = pruner.apply(model, pruner.plan(subject(model)))
    assert [each.training for each in small.module.modules()] == [each.training for each in model.module.modules()]
    trained_now = {name: each.requires_grad for name, each in small.module.named_parameters()}
    assert trained_now == {name: each.requires_grad for name, each in model.module.named_parameters()}
    assert not trained_now["stem.0.weight"]


def test_what_computes_a_weight_is_left_as_it_was():
    """In training mode spectral norm goes on with its iteration wherever its weight is looked at."""
    torch.manual_seed(0)
    net = nn.Sequential(
        spectral_norm(nn.Conv2d(1, 8, 3)), nn.ReLU(), nn.Conv2d(8, 24, 3), nn.ReLU(), nn.Conv2d(24, 8, 3),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )  # fmt: skip
    before = {name: each.clone() for name, each in net.state_dict().items()}
    Channels(ChannelsOptions(macs=0.8)).plan(subject(Model(net, ("image",))))
    assert net.training
    assert [name for name, each in net.state_dict().items() if not torch.equal(each, before[name])] == []


class Grouped(nn.Module):
    """Grouped convolution, concatenation, group norm and a width wired into a reshape."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 16, 3, 1, 1), nn.Conv2d(16, 16, 3, 1, 1, groups=4)
        self.norm = nn.GroupNorm(4, 16)
        self.c, self.wired = nn.Conv2d(32, 24, 1), nn.Conv2d(24, 12, 1)
        self.head = nn.Linear(12, 10)

    def forward(self, x):
        a = torch.relu(self.a(x))
        joined = torch.cat([a, torch.relu(self.norm(self.b(a)))], 1)
        wired = self.wired(torch.relu(self.c(joined))).reshape(x.shape[0], 12, -1)
        return self.head(wired.mean(2))


def test_groups_concatenation_and_wired_widths():
    torch.manual_seed(0)
    model = Model(Grouped(), ("image",))
    pruner = Channels(ChannelsOptions(macs=0.6, round_to=1))
    small = pruner.apply(model, pruner.plan(subject(model)))
    assert small.module(digits()[2][:2]).shape == (2, 10)
    assert small.module.wired.out_channels == 12
    assert small.module.c.out_channels < 24
    assert small.module.a.out_channels % 4 == 0
    assert small.cost().macs <= 0.6 * count(model, DIGITS).macs


def test_a_recurrent_network_prunes_what_feeds_it():
    class ConvLstm(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.lstm = nn.Conv1d(8, 16, 3, 1, 1), Lstm(16)

        def forward(self, x):
            return self.lstm(torch.relu(self.conv(x.transpose(1, 2))).transpose(1, 2))

    io = IO((Field("x", "sequence", (None, 8)),), DIGITS.outputs)
    model = Model(ConvLstm(), ("x",))
    pruner = Channels(ChannelsOptions(macs=0.95, round_to=1))
    small = pruner.apply(model, pruner.plan(subject(model, io)))
    assert small.module.conv.out_channels < 16
    assert small.module(torch.zeros(2, 5, 8)).shape == (2, 10)
    assert small.cost().macs <= 0.95 * count(model, io).macs


def test_a_pruned_network_exports(tmp_path):
    small = pruned("residual", macs=0.5)[2]
    graph, x = graph_of(small.module), digits()[2][:5]
    exporter = OnnxExporter(OnnxOptions())
    exporter.write(graph, batch_of(image=x), tmp_path / "p.onnx")
    found = compare(
        module_call(graph), exporter.load(tmp_path / "p.onnx"), graph.inputs, graph.outputs, batch_of(image=x)
    )
    assert found.max_abs < 1e-4


def test_options_declare_their_search_ranges():
    assert (declared_range(ChannelsOptions, "macs").low, declared_range(ChannelsOptions, "macs").high) == (0.3, 0.95)
    assert validate(ChannelsOptions, {"macs": 0.8, "exclude": ["stem.*"]}).exclude == ("stem.*",)
    assert validate(ChannelsOptions, {"macs": None, "params": 0.5}).macs is None
    with pytest.raises(Exception, match="macs"):
        validate(ChannelsOptions, {"macs": 1.5})
