from typing import ClassVar

import pytest
import torch
from kdsearch_spaces.timm_space.named import arguments
from kdsearch_spaces.timm_space.space import TimmSpace
from kdsearch_spaces.timm_space.spec import OWN, TABLED, TimmSpec
from torch import nn

from kdsearch.errors import DataError, StudyError
from kdsearch.kinds import IO, Field
from kdsearch.kinds.forward import recorded
from kdsearch.kinds.options import searchable
from kdsearch.testing.space import SearchSpaceContract

SPECS = [
    TimmSpec(widths=(8, 12, 16, 20), depths=(1, 2, 1, 1)),
    TimmSpec(widths=(7, 8, 8, 9), depths=(1, 1, 1, 1), block="bottleneck"),
    TimmSpec(family="mobilenet", widths=(6, 10, 12, 14), depths=(1, 2, 1, 1), expansion=3),
    TimmSpec(family="convnext", widths=(8, 8, 16, 24), depths=(1, 1, 2, 1)),
    TimmSpec(family="vit", dim=24, heads=3, depth=2, grid=4),
    TimmSpec(family="mixer", dim=16, depth=2, grid=4),
    TimmSpec(family="mobilenetv3_small", width_multiplier=0.25, depth_multiplier=0.5),
    TimmSpec(family="mobilenetv3_large", width_multiplier=0.25, depth_multiplier=0.5),
    TimmSpec(family="efficientnet", width_multiplier=0.25, depth_multiplier=0.5),
    TimmSpec(family="regnet", blocks=8, w0=8, wa=8.0, wm=2.0, squeeze_excite=True),
    TimmSpec(family="named", name="resnet18", depths=(1, 1, 2, 1), widths=(8, 8, 16, 24)),
    TimmSpec(family="named", name="deit_tiny_patch16_224", dim=24, heads=3, depth=2, grid=4),
]
STAGES = {"vit": 2, "mixer": 2, "mobilenetv3_large": 5, "efficientnet": 5, "deit_tiny_patch16_224": 2}  # others: 4
BY_FAMILY = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.name or spec.family}-{spec.block}")


def io(channels=3, height=16, width=16, n_classes=5):
    return IO((Field("image", "image", (channels, height, width)),), (Field("logits", "logits", (n_classes,)),))


def macs_by_hooks(net, x):
    """Convolutions and linear layers by their hooks; attention by its two matmuls, N x N x D each."""
    total = 0

    def count(layer, args, out):
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            total += layer.weight.numel() * out.shape[2] * out.shape[3]
        elif isinstance(layer, nn.Linear):
            total += layer.weight.numel() * (out.numel() // out.shape[-1])
        elif type(layer).__name__ == "Attention":
            total += 2 * out.shape[1] ** 2 * out.shape[2]

    for layer in net.modules():
        layer.register_forward_hook(count)
    net.eval()(x)
    return total


@BY_FAMILY
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 8, 13), (3, 96, 96)])
def test_the_counted_cost_is_the_built_model_s(spec, shape):
    space, fields = TimmSpace(), io(*shape)
    built, cost = space.build(spec, fields), space.cost(spec, fields)
    assert cost.params == sum(each.numel() for each in built.module.parameters())
    assert cost.macs == macs_by_hooks(built.module, torch.randn(1, *shape))


@BY_FAMILY
def test_taps_have_their_shapes_and_gradients(spec):
    built = TimmSpace().build(spec, io())
    names = [tap.name for tap in built.taps]
    stages = STAGES.get(spec.name or spec.family, 4)
    assert [name for name in names if name.startswith("stage")] == [f"stage[{i}]" for i in range(stages)]
    assert names[-2:] == ["penultimate", "logits"]
    with recorded(built, built.taps) as seen:
        out = built.module(torch.randn(2, 3, 16, 16))
    for tap in built.taps:
        assert seen[tap.name].shape == (2, *tap.shape)
    classifier = built.part("logits")
    torch.testing.assert_close(out, nn.functional.linear(seen["penultimate"], classifier.weight, classifier.bias))
    out.square().sum().backward()
    assert all(each.grad is not None for each in built.module.parameters())


def test_widths_are_the_spec_s_to_the_channel():
    for spec in (SPECS[0], SPECS[2], SPECS[3]):
        built = TimmSpace().build(spec, io())
        assert tuple(built.width(f"stage[{i}]") for i in range(4)) == spec.widths


def test_tokens_are_maps_of_their_grid():
    for spec, width, n in ((SPECS[4], 24, 16), (SPECS[5], 16, 16), (SPECS[-1], 24, 1 + 4 * 6)):
        built = TimmSpace().build(spec, io(height=16, width=24))
        assert built.tap("tokens[-1]").shape == (n, width)
        assert built.tap("stage[-1]").shape == (width, 4, n // 4)


@pytest.mark.parametrize("spec", [each for each in SPECS if each.family in TABLED], ids=lambda spec: spec.family)
def test_no_branch_is_dead_at_the_start(spec):
    torch.manual_seed(0)
    built = TimmSpace().build(spec, io())
    blocks = [built.module.get_submodule(block) for block in built.blocks]
    if "depths" in OWN[spec.family]:
        assert len(blocks) == sum(spec.depths)
    else:
        assert len(blocks) == {"regnet": 8}.get(spec.family, 2) or "multiplier" in OWN[spec.family][0]
    scales = []
    for block in blocks:
        block.register_forward_hook(
            lambda _, args, out: scales.append(
                float((out - args[0]).norm() / args[0].norm()) if out.shape == args[0].shape else 1.0
            )
        )
    with torch.no_grad():
        built.module.eval()(torch.randn(4, 3, 16, 16))
    assert min(scales) > 1e-3


def test_fields_of_other_families_do_not_make_other_networks():
    space = TimmSpace()
    spec = TimmSpec(family="vit", widths=(8, 8, 8, 8), expansion=6)
    assert space.key(spec) == space.key(TimmSpec(family="vit"))
    assert space.key(spec) == '{"depth":4,"dim":96,"family":"vit","grid":8,"heads":4}'
    assert space.canonical(space.canonical(spec)) == space.canonical(spec)
    rng = torch.Generator().manual_seed(0)
    for other in space.neighbours(spec, rng, 6):
        assert space.key(other) != space.key(spec)
        changed = [name for name in TimmSpec.model_fields if getattr(other, name) != getattr(spec, name)]
        assert changed[0] in (*OWN["vit"], "family")


def test_uneven_heads_are_never_drawn_and_named_when_written():
    region = searchable(TimmSpec, {"family": "vit", "dim": {"choices": [48, 50]}, "heads": {"choices": [4, 5]}}, "spec")
    space = TimmSpace(region)
    drawn = {(spec.dim, spec.heads) for spec in (space.sample(torch.Generator().manual_seed(i)) for i in range(40))}
    assert drawn == {(48, 4), (50, 5)}
    with pytest.raises(StudyError, match="dim 50 with 4 heads"):
        space.build(TimmSpec(family="vit", dim=50, heads=4), io())


@pytest.mark.parametrize(
    ("fields", "expected"),
    [(io(height=7), "at least 8"), (io(width=None), "fixed size"), (IO((), io().outputs), "no input field")],
)
def test_inputs_that_do_not_fit_are_named(fields, expected):
    with pytest.raises(DataError, match=expected):
        TimmSpace().build(TimmSpec(), fields)


def region(**written):
    raw = {**{name: "search" for name in TimmSpec.model_fields if name != "name"}, **written}
    return searchable(TimmSpec, raw, "student.spec")


def searched(space):
    return {dim.path.removeprefix("student.spec.").partition("[")[0] for dim in space.dims}


@pytest.mark.parametrize("family", TABLED)
def test_a_fixed_family_searches_the_fields_that_it_reads(family):
    assert searched(TimmSpace(region(family=family))) == set(OWN[family])


@pytest.mark.parametrize("family", ["mobilenetv3_small", "mobilenetv3_large", "efficientnet"])
def test_declared_multipliers_make_different_networks(family):
    space = TimmSpace(region(family=family))
    for name, other in (("width_multiplier", "depth_multiplier"), ("depth_multiplier", "width_multiplier")):
        specs = [spec for spec in space.every() if getattr(spec, other) == 0.5]
        costs = {(cost.params, cost.macs) for cost in (space.cost(spec, io()) for spec in specs)}
        assert len(costs) == len({getattr(spec, name) for spec in specs}) == len(specs)


def test_multipliers_of_one_are_the_published_networks():
    """Params with 1000 classes, from the papers' tables: 5.3, 5.4 and 2.5 million."""
    fields = io(3, 224, 224, 1000)
    params = [
        TimmSpace().cost(TimmSpec(family=family), fields).params
        for family in ("efficientnet", "mobilenetv3_large", "mobilenetv3_small")
    ]
    assert [round(each / 1e6, 1) for each in params] == [5.3, 5.5, 2.5]


def test_regnet_s_default_is_x_200mf_and_widths_follow_its_rule():
    """Radosavovic et al., CVPR 2020, figure 15: depths 1, 1, 4, 7 at 24, 56, 152, 368 channels; 2.7 million, 0.2 GMACs."""
    spec = TimmSpec(family="regnet", blocks=13, w0=24, wa=36.44, wm=2.49, group_size=8)
    built = TimmSpace().build(spec, io(3, 96, 96, 1000))
    assert [built.width(f"stage[{i}]") for i in range(4)] == [24, 56, 152, 368]
    assert round(built.cost().params / 1e6, 1) == 2.7
    assert round(TimmSpace().cost(spec, io(3, 224, 224, 1000)).macs / 1e9, 1) == 0.2


def test_regnets_of_other_than_four_stages_are_never_drawn():
    space, rng = TimmSpace(region(family="regnet")), torch.Generator().manual_seed(0)
    for _ in range(20):
        spec = space.sample(rng)
        widths = {round(spec.w0 * spec.wm ** rounded(spec, j) / 8) * 8 for j in range(spec.blocks)}
        assert len(widths) == 4
    with pytest.raises(StudyError, match=r"make 1 stages. Expected values that make 4"):
        TimmSpace().build(TimmSpec(family="regnet", blocks=2, wa=1.0), io())


def rounded(spec, j):
    from math import log

    return round(log((spec.w0 + spec.wa * j) / spec.w0) / log(spec.wm))


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("convnextv2_atto", {"depths": "depths", "widths": "dims"}),
        ("resnet18", {"depths": "layers", "widths": "channels"}),
        ("poolformer_s12", {"depths": "depths", "widths": "dims"}),
        ("repvit_m0_9", {"depths": "depth", "widths": "embed_dim"}),
        ("densenet121", {"depths": "block_config"}),
        ("deit_tiny_patch16_224", {"depth": "depth", "dim": "embed_dim", "heads": "num_heads", "grid": "patch_size"}),
        ("mixer_s16_224", {"depth": "num_blocks", "dim": "embed_dim", "grid": "patch_size"}),
        ("xcit_nano_12_p16_224", {"depth": "depth", "dim": "embed_dim", "heads": "num_heads", "grid": "patch_size"}),
    ],
)
def test_networks_by_name_take_the_arguments_of_their_class(name, fields):
    assert arguments(name) == fields
    space = TimmSpace(region(family="named", name=name)).narrowed(io(1, 32, 32))
    assert searched(space) == set(fields)
    small, large = (
        TimmSpec(family="named", name=name, depths=(n,) * 4, widths=(24 * n,) * 4, depth=n, dim=24 * n, heads=2, grid=4)
        for n in (1, 2)
    )
    assert 0 < space.cost(small, io(1, 32, 32)).params < space.cost(large, io(1, 32, 32)).params


def test_a_network_by_name_at_timm_s_own_values_is_timm_s():
    import timm

    theirs = timm.create_model("resnet18", num_classes=5)
    spec = TimmSpec(family="named", name="resnet18", depths=(2, 2, 2, 2), widths=(64, 128, 256, 512))
    built = TimmSpace().build(spec, io())
    built.module.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(built.module.eval()(images), theirs.eval()(images))


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "efficientnet_b0", "deit_tiny_patch16_224", "test_vit"])
def test_a_name_without_a_family_is_that_network_as_it_is(name):
    import timm

    size = {"img_size": 32} if "vit" in name or "deit" in name else {}
    space = TimmSpace(region(name=name)).narrowed(io(3, 32, 32))
    assert (space.dims, space.size()) == ((), 1)
    spec = space.sample(torch.Generator())
    built, theirs = space.build(spec, io(3, 32, 32)), timm.create_model(name, num_classes=5, **size)
    built.module.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(built.module.eval()(images), theirs.eval()(images))
    assert space.cost(spec, io(3, 32, 32)).params == sum(each.numel() for each in theirs.parameters())
    assert space.build(spec, io(1, 32, 32)).module.eval()(images[:, :1]).shape == (2, 5)
    assert space.decode(space.encode(spec)) == spec


@pytest.mark.parametrize("written", [{"depths": [1, 1, 1, 1]}, {"widths": {"choices": [8, 16]}}, {"grid": 4}])
def test_fields_that_a_network_as_it_is_does_not_read_are_refused(written):
    field = next(iter(written))
    with pytest.raises(StudyError, match=f"{field} of the network 'resnet18', which is taken as timm has it") as caught:
        TimmSpace(region(name="resnet18", **written))
    assert caught.value.path == f"student.spec.{field}"
    assert "family: named" in caught.value.fix


def test_an_unknown_name_without_a_family_is_named():
    with pytest.raises(StudyError, match="no network 'resnet81'; did you mean 'resnet18'"):
        TimmSpace(region(name="resnet81"))


def test_a_network_as_it_is_that_does_not_read_the_images_says_why():
    space = TimmSpace(region(name="vgg11")).narrowed(io(3, 8, 8))
    with pytest.raises(StudyError, match="'vgg11' does not run on images of 3x8x8"):
        space.sample(torch.Generator())


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (
            {"name": "convnext_atoo"},
            r"student\.spec\.name: .* no network 'convnext_atoo'; did you mean 'convnext_atto'",
        ),
        ({"name": "efficientnet_b0"}, "EfficientNet, which has no depth or width among its arguments"),
        ({}, "no network ''"),
    ],
)
def test_names_that_are_no_space_are_named(written, expected):
    with pytest.raises(StudyError, match=expected):
        TimmSpace(region(family="named", **written))


def test_a_network_by_name_that_does_not_run_says_why():
    spec = TimmSpec(family="named", name="pvt_v2_b0", widths=(8, 16, 24, 32))  # the third stage has five heads
    with pytest.raises(
        DataError, match=r"'pvt_v2_b0' with depths .* does not run on images of 3x16x16 \(.*num_heads 5"
    ):
        TimmSpace().build(spec, io())
    assert not TimmSpace().is_valid(spec)
    space = TimmSpace(region(family="named", name="pvt_v2_b0", widths=[8, 16, 24, 32], depths=[1, 1, 1, 1]))
    with pytest.raises(StudyError, match=r"num_heads 5.*nor does anything else of 100 draws.*Give ranges"):
        space.narrowed(io()).sample(torch.Generator().manual_seed(0))


class TestNamedConvNet(SearchSpaceContract):
    space = TimmSpace
    spec: ClassVar = {
        "family": "named",
        "name": "resnet18",
        "widths": {"choices": [4, 6]},
        "depths": [1, 1, 2, 1],
    }
    samples = 2


class TestNamedTransformer(SearchSpaceContract):
    space = TimmSpace
    spec: ClassVar = {"family": "named", "name": "deit_tiny_patch16_224", "dim": {"choices": [12, 18]}, "depth": 2}
    samples = 2


class TestMixer(SearchSpaceContract):
    space = TimmSpace
    spec: ClassVar = {"family": "mixer", "dim": {"choices": [12, 16]}, "depth": {"choices": [1, 2]}}
    samples = 2


class TestRegNet(SearchSpaceContract):
    space = TimmSpace
    spec: ClassVar = {"family": "regnet", "blocks": 8, "w0": 8, "wa": 8.0, "wm": {"choices": [2.0, 2.25]}}
    samples = 2


class TestMobileNetV3(SearchSpaceContract):
    space = TimmSpace
    spec: ClassVar = {"family": "mobilenetv3_small", "width_multiplier": 0.25}
    samples = 2


@pytest.mark.parametrize(
    ("family", "height"), [({"family": "vit"}, 32), ({"family": "named", "name": "deit_tiny_patch16_224"}, 48)]
)
def test_grids_of_equal_patches_are_one_network(family, height):
    """Patches of a network by name are squares of the shorter side over the grid."""
    fields = io(height=height, width=32)
    space, vit = TimmSpace().narrowed(fields), TimmSpec(**family, dim=48, depth=2)
    seven, eight, four = (vit.model_copy(update={"grid": grid}) for grid in (7, 8, 4))
    nets = [space.build(each, fields).module.eval() for each in (seven, eight)]
    nets[1].load_state_dict(nets[0].state_dict())
    x = torch.randn(2, 3, height, 32)
    assert torch.equal(nets[0](x), nets[1](x))
    assert space.key(seven) == space.key(eight) != space.key(four)
    large = TimmSpace().narrowed(io(height=56, width=56))
    assert large.key(seven) != large.key(eight), "patches of 8 and of 7"
