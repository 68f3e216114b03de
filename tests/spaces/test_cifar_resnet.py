import pytest
import torch
from kdsearch_spaces.cifar_resnet.space import CifarResNetSpace, CifarResNetSpec
from torch import nn

from kdsearch.errors import DataError, StudyError
from kdsearch.kinds import IO, Field
from kdsearch.kinds.options import searchable


def io(channels=3, height=32, width=32, n_classes=100):
    return IO((Field("image", "image", (channels, height, width)),), (Field("logits", "logits", (n_classes,)),))


@pytest.mark.parametrize(("depths", "params"), [((3, 3, 3), 278_324), ((7, 1, 3), 259_892), ((18, 18, 18), 1_736_564)])
def test_parameters_are_those_of_the_published_networks(depths, params):
    spec = CifarResNetSpec(depths=depths)
    built = CifarResNetSpace().build(spec, io())
    assert sum(p.numel() for p in built.module.parameters()) == params
    assert built.cost().params == params


def macs_by_hooks(module, x):
    total = 0

    def conv(layer, args, out):
        nonlocal total
        total += layer.weight.numel() * out.shape[2] * out.shape[3]

    def linear(layer, args, out):
        nonlocal total
        total += layer.weight.numel()

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(conv)
        elif isinstance(layer, nn.Linear):
            layer.register_forward_hook(linear)
    module.eval()(x)
    return total


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (1, 28, 28), (4, 9, 13), (3, 64, 15)])
def test_the_cost_formula_is_what_the_built_model_has(shape):
    space = CifarResNetSpace()
    rng = torch.Generator().manual_seed(1)
    for _ in range(3):
        spec, fields = space.sample(rng), io(*shape, n_classes=11)
        built = space.build(spec, fields)
        cost = space.cost(spec, fields)
        assert cost.params == sum(p.numel() for p in built.module.parameters())
        assert cost.macs == macs_by_hooks(built.module, torch.randn(1, *shape))


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (4, 9, 13)])
def test_taps_have_their_shapes_and_end_in_relu(shape):
    built = CifarResNetSpace().build(CifarResNetSpec(depths=(1, 2, 1), widths=(4, 6, 8)), io(*shape, n_classes=5))
    seen = {}
    for tap in built.taps:
        built.part(tap.name).register_forward_hook(lambda _, args, out, name=tap.name: seen.update({name: out}))
    logits = built.module.eval()(torch.randn(2, *shape))
    for tap in built.taps:
        assert seen[tap.name].shape == (2, *tap.shape)
    assert all(seen[f"stage[{i}]"].min() == 0 for i in range(3))
    torch.testing.assert_close(seen["penultimate"], seen["stage[2]"].mean((2, 3)))
    classifier = built.part("logits")
    torch.testing.assert_close(logits, seen["penultimate"] @ classifier.weight.T + classifier.bias)
    assert [tap.stride for tap in built.taps if tap.kind == "map"] == [1, 1, 2, 4]


def test_blocks_are_named_in_order():
    built = CifarResNetSpace().build(CifarResNetSpec(depths=(1, 2, 1)), io())
    assert built.blocks == ("stages.0.0", "stages.1.0", "stages.1.1", "stages.2.0")


def test_residual_branches_are_alive_at_the_start():
    torch.manual_seed(0)
    built = CifarResNetSpace().build(CifarResNetSpec(), io())
    assert all((norm.weight == 1).all() for norm in built.module.modules() if isinstance(norm, nn.BatchNorm2d))
    conv = built.module.stages[2][0].conv2
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.03)


def test_a_study_fixes_widths_and_searches_depths():
    region = searchable(CifarResNetSpec, {"depths": "search", "widths": [8, 16, 32]}, "student.spec")
    space = CifarResNetSpace(region)
    assert space.size() == 64
    specs = list(space.every())
    assert len({space.key(spec) for spec in specs}) == 64
    assert {spec.widths for spec in specs} == {(8, 16, 32)}
    assert space.teacher_spec() == CifarResNetSpec(depths=(18, 18, 18), widths=(8, 16, 32))
    assert CifarResNetSpace().size() == 4**3 * 8**3
    assert CifarResNetSpace().teacher_spec().widths == (16, 32, 64)


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        ({"depths": [0, 1, 1]}, r"depths\[0\]"),
        ({"depths": [1, 1]}, "depths: has 2 values. Expected 3"),
        ({"widths": [16, 2.5, 8]}, r"widths\[1\]"),
        ({"width": [16, 16, 16]}, "did you mean 'widths'"),
    ],
)
def test_bad_specs_are_named(spec, where):
    with pytest.raises(StudyError, match=where):
        CifarResNetSpace().parse(spec)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (io(height=7), "at least 8"),
        (io(height=None), "fixed size"),
        (IO((Field("x", "vector", (9,)),), io().outputs), "image"),
        (IO((), io().outputs), "image"),
        (IO(io().inputs, (Field("map", "map", (3, 8, 8)),)), "one vector"),
    ],
)
def test_inputs_that_do_not_fit_are_named(fields, expected):
    with pytest.raises(DataError, match=expected):
        CifarResNetSpace().build(CifarResNetSpec(), fields)
