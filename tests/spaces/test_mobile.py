"""The space of inverted residuals: its contract, hand-counted networks and torchvision's, stages that are left out."""

from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdsearch_spaces.mobile.space import MobileSpace, MobileSpec
from torch import nn
from torchvision.models import MobileNetV2
from torchvision.models.mobilenetv3 import InvertedResidual, InvertedResidualConfig

from kdsearch.builtin.controllers.optuna import Optuna, OptunaOptions
from kdsearch.builtin.onnx_exporter import OnnxExporter, OnnxOptions
from kdsearch.errors import DataError, StudyError
from kdsearch.kinds import IO, Batch, Field, Graph, Trial
from kdsearch.kinds.options import searchable
from kdsearch.testing.space import SearchSpaceContract

SMALL = {
    "widths": {"choices": [4, 6, 9]},
    "expansions": {"choices": [1, 3]},
    "depths": {"choices": [0, 1, 2]},
    "head": 12,
}
TINY = MobileSpec(
    stem=4,
    kernels=(3, 5, 3, 7, 3),
    expansions=(1, 2, 3, 2, 4),
    depths=(1, 2, 1, 0, 1),
    widths=(4, 6, 6, 8, 10),
    head=12,
)


class TestMobile(SearchSpaceContract):
    space = MobileSpace
    spec: ClassVar = SMALL


class TestMobileOfFewDimensions(SearchSpaceContract):
    space = MobileSpace
    spec: ClassVar = {
        "kernels": [3, 5, 3, 5, 7],
        "expansions": [1, 2, 2, 2, 2],
        "depths": {"choices": [0, 1]},
        "widths": [4, 6, 6, 8, 8],
        "stem": 4,
        "head": 0,
        "squeeze_excite": True,
    }
    samples = 2


def io(channels=3, height=32, width=32, n_classes=10):
    return IO((Field("image", "image", (channels, height, width)),), (Field("logits", "logits", (n_classes,)),))


def rng_of(seed=0):
    return torch.Generator().manual_seed(seed)


def test_one_block_costs_what_a_hand_counts():
    spec = MobileSpec(
        stem=8, depths=(0, 1, 0, 0, 0), expansions=(1, 3, 1, 1, 1), kernels=(3, 5, 3, 3, 3), widths=(8, 12, 8, 8, 8)
    )
    params = (9 * 3 * 8 + 16) + (8 * 24 + 48) + (25 * 24 + 48) + (24 * 12 + 24) + (12 * 256 + 512) + (256 * 10 + 10)
    macs = (9 * 3 * 8 + 8 * 24) * 32 * 32 + (25 * 24 + 24 * 12 + 12 * 256) * 16 * 16 + 2560
    space = MobileSpace()
    cost = space.cost(spec, io())
    assert (cost.params, cost.macs) == (params, macs)
    gated = space.cost(spec.model_copy(update={"squeeze_excite": True}), io())  # 24 channels to 8 and back, with biases
    assert (gated.params - params, gated.macs - macs) == (2 * 24 * 8 + 8 + 24, 2 * 24 * 8)
    headless = space.cost(spec.model_copy(update={"head": 0}), io())
    assert params - headless.params == (12 * 256 + 512) + 244 * 10
    thin = space.cost(spec.model_copy(update={"expansions": (1, 1, 1, 1, 1)}), io())
    assert params - thin.params == (8 * 24 + 48) + 16 * 25 + 32 + 16 * 12


def macs_by_hooks(net, x):
    total = 0

    def count(layer, args, out):
        nonlocal total
        total += layer.weight.numel() * (out.shape[2] * out.shape[3] if out.dim() == 4 else 1)

    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    net.eval()(x)
    return total


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 13), (3, 96, 100), (3, 97, 64)])
@pytest.mark.parametrize("squeeze_excite", [False, True])
def test_the_cost_formula_is_what_the_built_model_has(shape, squeeze_excite):
    space, fields = MobileSpace(), io(*shape, n_classes=7)
    spec = TINY.model_copy(update={"squeeze_excite": squeeze_excite})
    built, cost = space.build(spec, fields), space.cost(spec, fields)
    assert cost.params == sum(each.numel() for each in built.module.parameters())
    assert cost.macs == macs_by_hooks(built.module, torch.randn(1, *shape))
    assert built.cost() == cost


def test_the_default_teacher_is_torchvision_s_mobilenet():
    """Of large images, with the same stages and the same weights in the same order."""
    torch.manual_seed(0)
    stages = [[6, 24, 2, 2], [6, 32, 3, 2], [6, 64, 4, 2], [6, 96, 3, 1], [6, 160, 3, 2]]
    theirs = MobileNetV2(num_classes=5, inverted_residual_setting=stages, dropout=0)
    space = MobileSpace()
    ours = space.build(space.teacher_spec(), io(height=96, width=96, n_classes=5)).module
    ordered = list(theirs.state_dict().values())
    assert [each.shape for each in ours.state_dict().values()] == [each.shape for each in ordered]
    ours.load_state_dict(dict(zip(ours.state_dict(), ordered, strict=True)))
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours.train()(x), theirs.train()(x), rtol=1e-4, atol=1e-5)


def test_a_gated_block_is_torchvision_s():
    torch.manual_seed(0)
    config = InvertedResidualConfig(16, 5, 64, 16, True, "HS", 1, 1, 1.0)
    theirs = InvertedResidual(config, nn.BatchNorm2d)
    spec = MobileSpec(
        stem=16, kernels=(5,) * 5, depths=(1, 0, 0, 0, 0), widths=(16,) * 5, expansions=(4,) * 5, squeeze_excite=True,
        activation="hardswish",
    )  # fmt: skip
    ours = MobileSpace().build(spec, io()).module.stages[0][0]
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    x = torch.randn(2, 16, 9, 9)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize(
    ("size", "strides"),
    [(32, [1, 1, 2, 4, 4, 8]), (95, [1, 1, 2, 4, 4, 8]), (96, [2, 4, 8, 16, 16, 32])],
)
def test_strides_follow_the_image(size, strides):
    spec = MobileSpec(stem=4, depths=(1,) * 5, widths=(4,) * 5, head=0)
    built = MobileSpace().build(spec, io(height=size, width=size + 5))
    maps = [tap for tap in built.taps if tap.kind == "map"]
    assert [tap.stride for tap in maps] == strides
    assert maps[-1].shape == (4, -(-size // strides[-1]), -(-(size + 5) // strides[-1]))
    assert built.width("penultimate") == 4


def test_stages_that_are_left_out_are_not_counted():
    built = MobileSpace().build(TINY, io(1, 17, 32, 5))
    taps = {tap.name: (tap.path, tap.shape, tap.stride) for tap in built.taps}
    assert taps == {
        "stem": ("stem", (4, 17, 32), 1),
        "stage[0]": ("stages.0", (4, 17, 32), 1),
        "stage[1]": ("stages.1", (6, 9, 16), 2),
        "stage[2]": ("stages.2", (6, 5, 8), 4),
        "stage[3]": ("stages.3", (10, 3, 4), 8),
        "penultimate": ("pool", (12,), 0),
        "logits": ("classifier", (5,), 0),
    }
    assert built.blocks == ("stages.0.0", "stages.1.0", "stages.1.1", "stages.2.0", "stages.3.0")


specs = st.builds(
    MobileSpec,
    kernels=st.tuples(*[st.sampled_from([3, 5])] * 5),
    expansions=st.tuples(*[st.sampled_from([1, 2])] * 5),
    depths=st.tuples(*[st.integers(0, 2)] * 5).filter(any),
    widths=st.tuples(*[st.sampled_from([2, 3])] * 5),
    stem=st.just(2),
    head=st.just(4),
)


@given(specs, specs)
def test_what_is_said_of_absent_stages_makes_no_other_network(a, b):
    """Take b's word for the stages that are not there: the key stays, as do all weights' shapes."""
    space = MobileSpace()
    mixed = a.model_copy(
        update={
            name: tuple(
                (getattr(a, name) if depth else getattr(b, name))[i] for i, depth in enumerate(a.depths)
            )
            for name in ("kernels", "expansions", "widths")
        }
    )  # fmt: skip
    assert space.key(mixed) == space.key(a)
    assert space.canonical(space.canonical(a)) == space.canonical(a)
    assert shapes(space, space.canonical(a)) == shapes(space, a)
    for name in ("kernels", "expansions", "widths", "depths"):  # and what is there does
        for i, depth in enumerate(a.depths):
            changed = list(getattr(a, name))
            changed[i] = {"kernels": 7, "expansions": 6, "widths": 5, "depths": 3}[name]
            is_other = space.key(a.model_copy(update={name: tuple(changed)})) != space.key(a)
            assert is_other == (depth > 0 or name == "depths")


def shapes(space, spec):
    with torch.device("meta"):
        net = space.build(spec, io()).module
    return [(name, each.shape) for name, each in net.state_dict().items()]


def test_values_of_the_canonical_form_are_of_the_study_s_ranges():
    region = searchable(MobileSpec, {**SMALL, "depths": {"choices": [0, 1]}}, "student.spec")
    space = MobileSpace(region)
    allowed = {dim.path: set(dim.range.choices) for dim in space.dims}
    rng, history = rng_of(), []
    for i in range(12):
        spec = space.canonical(space.sample(rng))
        assert all(value in allowed[path] for path, value in space.values(spec).items())
        history.append(Trial(i, {}, spec.model_dump(mode="json"), "complete", (float(sum(spec.depths)),), ()))
    (ask,) = Optuna(OptunaOptions()).ask(space, (), history, 1, 0)
    assert space.is_valid(space.parse(dict(ask.spec)))


def test_neighbours_are_other_networks():
    space, rng = MobileSpace(), rng_of()
    spec = space.canonical(TINY)
    keys = [space.key(other) for other in space.neighbours(spec, rng, 40)]
    assert len(keys) == 40
    assert space.key(spec) not in keys


def test_size_counts_every_combination():
    assert MobileSpace().size() == 4 * (3 * 5 * 5 * 9) ** 5 * 4 * 2 * 2
    region = searchable(MobileSpec, {"depths": {"choices": [0, 1]}, "stem": {"choices": [4, 8]}}, "spec")
    space = MobileSpace(region)
    assert space.size() == 64
    assert len({space.key(spec) for spec in space.every()}) == 62  # without the two that have no stage
    alone = MobileSpace(searchable(MobileSpec, TINY.model_dump(mode="json"), "spec"))
    assert (alone.dims, alone.size(), list(alone.every())) == ((), 1, [TINY])
    assert alone.neighbours(TINY, rng_of(), 3) == []
    assert MobileSpace(searchable(MobileSpec, {"head": 96}, "spec")).teacher_spec().head == 96
    assert MobileSpace().teacher_spec().head == 1280


def test_weights_start_by_their_own_fan():
    torch.manual_seed(0)
    spec = MobileSpec(depths=(1, 0, 0, 0, 0), widths=(128,) * 5, expansions=(4,) * 5, stem=64, kernels=(7,) * 5)
    block = MobileSpace().build(spec, io()).module.stages[0][0].branch
    assert block.depthwise[0].weight.shape == (256, 1, 7, 7)
    assert block.depthwise[0].weight.std().item() == pytest.approx((2 / 49) ** 0.5, rel=0.03)
    assert block.project[0].weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.03)
    assert (block.project[1].weight == 1).all()
    assert len(block.project) == 2  # linear


def test_texts_are_json():
    space = MobileSpace()
    spec = space.canonical(TINY)
    assert space.decode(space.encode(spec)) == spec
    with pytest.raises(StudyError, match="no architecture"):
        space.decode("mobilenet_v2")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"kernels": [3, 4, 3, 3, 3]}, r"kernels\[1\]"),
        ({"depths": [1, 1, 1, 1]}, "depths: has 4 values. Expected 5"),
        ({"expansions": [0, 1, 1, 1, 1]}, r"expansions\[0\]"),
        ({"activation": "relu7"}, "did you mean 'relu"),
        ({"width": [8] * 5}, "did you mean 'widths'"),
    ],
)
def test_bad_specs_are_named(spec, expected):
    with pytest.raises(StudyError, match=expected):
        MobileSpace().parse(spec)


def test_a_network_without_stages_is_refused():
    space, spec = MobileSpace(), MobileSpec(depths=(0,) * 5)
    assert not space.is_valid(spec)
    for work in (space.build, space.cost):
        with pytest.raises(StudyError, match=r"\[0, 0, 0, 0, 0\]"):
            work(spec, io())
    assert space.canonical(spec) == spec


@pytest.mark.parametrize("activation", ["relu6", "hardswish"])
def test_its_file_answers_as_it_does(tmp_path, activation):
    fields = io(3, 16, 16, 5)
    spec = TINY.model_copy(update={"activation": activation, "squeeze_excite": activation == "hardswish"})
    built = MobileSpace().build(spec, fields)
    exporter = OnnxExporter(OnnxOptions(engine="torchscript"))
    x = torch.randn(3, 3, 16, 16)
    graph = Graph(built.module, fields.inputs, fields.outputs)
    exporter.write(graph, Batch(("a", "b", "c"), {"image": x}), tmp_path / "net.onnx")
    with torch.no_grad():
        torch.testing.assert_close(exporter.load(tmp_path / "net.onnx")(x)["logits"], built.module.eval()(x))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [(io(height=7), "at least 8"), (io(width=None), "fixed size"), (IO((), io().outputs), "image")],
)
def test_inputs_that_do_not_fit_are_named(fields, expected):
    with pytest.raises(DataError, match=expected):
        MobileSpace().build(MobileSpec(), fields)
