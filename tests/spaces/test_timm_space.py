import pytest
import torch
from kdsearch_spaces.timm_space.space import OWN, TimmSpace, TimmSpec
from torch import nn

from kdsearch.errors import DataError, StudyError
from kdsearch.kinds import IO, Field
from kdsearch.kinds.options import searchable
from kdsearch.search.probe import recorded

SPECS = [
    TimmSpec(widths=(8, 12, 16, 20), depths=(1, 2, 1, 1)),
    TimmSpec(widths=(7, 8, 8, 9), depths=(1, 1, 1, 1), block="bottleneck"),
    TimmSpec(family="mobilenet", widths=(6, 10, 12, 14), depths=(1, 2, 1, 1), expansion=3),
    TimmSpec(family="convnext", widths=(8, 8, 16, 24), depths=(1, 1, 2, 1)),
    TimmSpec(family="vit", dim=24, heads=3, depth=2, grid=4),
]
BY_FAMILY = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.family}-{spec.block}")


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
@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 28, 28), (3, 8, 13), (3, 96, 96)])
def test_the_counted_cost_is_the_built_model_s(spec, shape):
    space, fields = TimmSpace(), io(*shape)
    built, cost = space.build(spec, fields), space.cost(spec, fields)
    assert cost.params == sum(each.numel() for each in built.module.parameters())
    assert cost.macs == macs_by_hooks(built.module, torch.randn(1, *shape))


@BY_FAMILY
def test_taps_have_their_shapes_and_gradients(spec):
    built = TimmSpace().build(spec, io())
    names = [tap.name for tap in built.taps]
    stages = 2 if spec.family == "vit" else 4
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
    built = TimmSpace().build(SPECS[-1], io(height=16, width=24))
    assert built.tap("stage[-1]").shape == (24, 4, 4)
    assert built.tap("tokens[-1]").shape == (16, 24)


@BY_FAMILY
def test_no_branch_is_dead_at_the_start(spec):
    torch.manual_seed(0)
    built = TimmSpace().build(spec, io())
    blocks = [built.module.get_submodule(block.path) for block in built.blocks]
    assert len(blocks) == (spec.depth if spec.family == "vit" else sum(spec.depths))
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
    [(io(height=7), "8 pixels"), (io(width=None), "fixed size"), (IO((), io().outputs), "the input is nothing")],
)
def test_inputs_that_do_not_fit_are_named(fields, expected):
    with pytest.raises(DataError, match=expected):
        TimmSpace().build(TimmSpec(), fields)
