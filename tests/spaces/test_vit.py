import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kdsearch_spaces.vit.net import Attention
from kdsearch_spaces.vit.space import VitSpace, VitSpec, grouped
from torch import nn

from kdsearch.builtin.channels.pruner import Channels, ChannelsOptions
from kdsearch.errors import DataError, StudyError
from kdsearch.kinds import IO, Field
from kdsearch.kinds.forward import recorded
from kdsearch.kinds.options import searchable
from kdsearch.testing.space import SearchSpaceContract, check_taps
from tests.builtin.channels.bare import bare


def io(channels=3, height=32, width=32, n_classes=100):
    return IO((Field("image", "image", (channels, height, width)),), (Field("logits", "logits", (n_classes,)),))


class TestVit(SearchSpaceContract):
    space = VitSpace
    spec = {"depth": {"choices": [2, 3, 5]}, "width": {"choices": [12, 18, 24]}}  # noqa: RUF012


class TestVitOfOneShape(SearchSpaceContract):
    space = VitSpace
    spec = {"depth": 3, "width": 24, "mlp_ratio": 2, "pool": "class"}  # noqa: RUF012

    def io(self):
        return io(1, 8, 12, 3)


def test_cost_is_that_worked_out_by_hand():
    """One block of width 4 with 2 heads and 4 hidden units on a 4x4 image of one channel in 2x2 patches, 3 classes."""
    spec = VitSpec(depth=1, width=4, heads=2, mlp_ratio=1, patch=2, pool="class")
    stem = (4 * 4 + 4) + 4 + 5 * 4  # convolution, class token, five positions
    block = 2 * (4 + 4) + 4 * (4 * 4 + 4) + 2 * (4 * 4 + 4)  # norms, attention, MLP
    cost = VitSpace().cost(spec, io(1, 4, 4, 3))
    assert cost.params == stem + block + 8 + (4 * 3 + 3) == 44 + 136 + 8 + 15
    # patches; per token 4 + 2 matrices of 4x4; queries by keys and weights by values, 5 x 5 x 4 each; classifier
    assert cost.macs == 4 * (4 * 4) + 5 * 6 * 16 + 2 * 5 * 5 * 4 + 4 * 3 == 64 + 480 + 200 + 12


def test_parameters_are_those_of_deit_tiny():
    """Touvron et al., ICML 2021, table 1: 5 million; exactly timm's deit_tiny_patch16_224, which this network is."""
    import timm

    spec = VitSpec(depth=12, width=192, heads=3, mlp_ratio=4, patch=16, pool="class")
    built = VitSpace().build(spec, io(3, 224, 224, 1000))
    theirs = timm.create_model("deit_tiny_patch16_224")
    assert built.cost().params == sum(each.numel() for each in theirs.parameters()) == 5_717_416
    torch.testing.assert_close(
        *(net.eval()(torch.ones(1, 3, 224, 224)) for net in (loaded(built.module, theirs), theirs))
    )


def loaded(net, theirs):
    """Our network with the weights of timm's; its norms have eps 1e-6."""
    parts = [
        (net.stem.patches, theirs.patch_embed.proj),
        (net.norm, theirs.norm),
        (net.classifier, theirs.head),
    ]
    net.stem.class_token.data, net.stem.position.data = theirs.cls_token.data, theirs.pos_embed.data
    for own, other in zip((block for stage in net.stages for block in stage), theirs.blocks, strict=True):
        parts += [(own.norm1, other.norm1), (own.norm2, other.norm2), (own.attention.project, other.attn.proj)]
        parts += [(own.mlp[0], other.mlp.fc1), (own.mlp[2], other.mlp.fc2)]
        names = (own.attention.query, own.attention.key, own.attention.value)
        for part, weight, bias in zip(names, other.attn.qkv.weight.chunk(3), other.attn.qkv.bias.chunk(3), strict=True):
            part.weight.data, part.bias.data = weight.data, bias.data
    for own, other in parts:
        own.load_state_dict(other.state_dict())
    for part in net.modules():
        if isinstance(part, nn.LayerNorm):
            part.eps = 1e-6
    return net


def test_attention_is_the_formula():
    torch.manual_seed(0)
    layer, x = Attention(6, 2).double(), torch.randn(2, 5, 6, dtype=torch.float64)
    q, k, v = (part(x) for part in (layer.query, layer.key, layer.value))
    heads = []
    for at in (slice(0, 3), slice(3, 6)):
        scores = torch.softmax(q[..., at] @ k[..., at].mT / 3**0.5, -1)
        heads.append(scores @ v[..., at])
    torch.testing.assert_close(layer(x), layer.project(torch.cat(heads, -1)))


@pytest.mark.parametrize("pool", ["mean", "class"])
def test_taps_are_what_they_are_called(pool):
    torch.manual_seed(0)
    spec = VitSpec(depth=4, width=12, heads=3, patch=4, pool=pool)
    built = VitSpace().build(spec, io(3, 8, 16, 5))
    image = torch.randn(2, 3, 8, 16)
    with recorded(built, built.taps) as seen:
        logits = built.module.eval()(image)
    assert [tap.name for tap in built.taps if tap.kind == "map"] == ["stem", "stage[0]", "stage[1]", "stage[2]"]
    assert {tap.stride for tap in built.taps if tap.kind == "map"} == {4}
    has_class = pool == "class"
    assert seen["tokens[2]"].shape == (2, 8 + has_class, 12)
    assert seen["stage[2]"].shape == (2, 12, 2, 4)
    assert torch.equal(seen["stage[2]"][:, :, 1, 2], seen["tokens[2]"][:, has_class + 6])
    normed = built.module.norm(seen["tokens[2]"])
    torch.testing.assert_close(seen["penultimate"], normed[:, 0] if has_class else normed.mean(1))
    torch.testing.assert_close(logits, built.part("logits")(seen["penultimate"]))
    stem = nn.functional.conv2d(image, built.module.stem.patches.weight, built.module.stem.patches.bias, 4)
    position = built.module.stem.position[0, has_class:].mT.unflatten(1, (2, 4))
    torch.testing.assert_close(seen["stem"], stem + position)


def test_without_positions_the_order_of_the_patches_is_not_seen():
    torch.manual_seed(0)
    net = VitSpace().build(VitSpec(depth=3, width=12, heads=3, patch=4), io(3, 8, 16, 5)).module.eval()
    image = torch.randn(2, 3, 8, 16)
    swapped = torch.cat([image[..., 8:], image[..., :8]], 3)
    assert not torch.allclose(net(image), net(swapped), atol=1e-4)
    nn.init.zeros_(net.stem.position)
    torch.testing.assert_close(net(image), net(swapped))


def test_no_branch_is_dead_at_the_start():
    torch.manual_seed(0)
    built = VitSpace().build(VitSpec(), io())
    shares = []
    for block in built.blocks:
        part = built.module.get_submodule(block)
        part.register_forward_hook(lambda _, args, out: shares.append(float((out - args[0]).norm() / args[0].norm())))
    with torch.no_grad():
        built.module.eval()(torch.randn(4, 3, 32, 32))
    assert len(shares) == 6
    assert min(shares) > 0.1


def test_a_pruned_vit_keeps_its_places():
    torch.manual_seed(0)
    fields = io(1, 8, 8, 3)
    model = VitSpace().build(VitSpec(depth=3, width=12, heads=3, mlp_ratio=4, patch=4), fields)
    subject = bare(model, fields)
    pruner = Channels(ChannelsOptions(macs=0.7))
    small = pruner.apply(model, pruner.plan(subject))
    assert any(
        now.shape != was.shape for now, was in zip(small.module.parameters(), model.module.parameters(), strict=True)
    )
    assert [tap.grid for tap in small.taps] == [tap.grid for tap in model.taps]
    check_taps(small, [torch.randn(2, 1, 8, 8)])


@given(st.integers(1, 64))
def test_stages_share_the_blocks_evenly(depth):
    groups = grouped(depth)
    assert sum(groups) == depth
    assert len(groups) == min(depth, 3)
    assert max(groups) - min(groups) <= 1


@settings(max_examples=40)
@given(st.integers(2, 96), st.integers(2, 96))
def test_narrowed_spaces_hold_only_what_can_be_built(height, width):
    fields = io(1, height, width, 2)
    patches = next(dim for dim in VitSpace().dims if dim.path == "patch").range.choices
    fitting = [p for p in range(1, 33) if height % p == 0 == width % p and min(height, width) >= 2 * p]
    others = [p for p in fitting if height * width <= 576 * p * p]
    few = [p for p in others if p in patches] or others
    if not few:
        with pytest.raises(StudyError, match=r"patch: none of .* can be built"):
            VitSpace().narrowed(fields)
        return
    space = VitSpace().narrowed(fields)
    assert space.values(VitSpec()).keys() == VitSpace().values(VitSpec()).keys()
    found = {space.sample(torch.Generator().manual_seed(i)).patch for i in range(64)}
    assert found <= set(few)
    for patch in few:
        space.cost(VitSpec(patch=patch), fields)
    assert VitSpace().narrowed(fields).teacher_spec().patch in few


def test_the_study_s_own_range_of_patches_may_make_many_tokens():
    region = searchable(VitSpec, {"patch": {"choices": [2, 3, 4]}}, "student.spec")
    narrowed = VitSpace(region).narrowed(io(height=64, width=64))
    assert narrowed.dims[0].range.choices == (2, 4)
    assert VitSpace(searchable(VitSpec, {"patch": 2}, "")).narrowed(io()).teacher_spec().patch == 2


def test_the_default_teacher_keeps_what_the_study_fixes():
    region = searchable(VitSpec, {"width": 100, "pool": "class", "heads": 4}, "student.spec")
    assert VitSpace(region).teacher_spec() == VitSpec(depth=12, width=100, heads=4, pool="class")
    assert VitSpace().teacher_spec() == VitSpec(depth=12, width=192, heads=3)


@pytest.mark.parametrize(
    ("spec", "fields", "error", "expected"),
    [
        (VitSpec(patch=8), io(height=28, width=28), DataError, r"patch 8 does not divide 28x28.*1, 2, 4, 7, 14"),
        (VitSpec(patch=16), io(height=16, width=32), DataError, "fewer than 2x2 patches of 16x32"),
        (VitSpec(width=100, heads=3), io(), StudyError, "width 100 with 3 heads"),
        (VitSpec(), IO((Field("x", "vector", (9,)),), io().outputs), DataError, "an image"),
        (VitSpec(), IO(io().inputs, (Field("map", "map", (3, 8, 8)),)), DataError, "one vector"),
    ],
)
def test_what_does_not_fit_is_named(spec, fields, error, expected):
    for act in (VitSpace().build, VitSpace().cost):
        with pytest.raises(error, match=expected):
            act(spec, fields)


@pytest.mark.parametrize(
    ("size", "patches"),
    [
        ((100, 100), (5, 10, 20, 25)),  # of the declared ones 4 makes 625 tokens, 8 and more do not divide
        ((90, 50), (5, 10)),
        ((100, 60), (4,)),  # 375 tokens
        ((28, 28), (2, 4, 7, 14)),
    ],
)
def test_an_image_that_declared_patches_do_not_suit_has_others(size, patches):
    image = IO((Field("image", "image", (3, *size)),), (Field("logits", "logits", (10,)),))
    space = VitSpace().narrowed(image)
    assert next(dim.range.choices for dim in space.dims if dim.path.endswith("patch")) == patches
    spec = space.sample(torch.Generator().manual_seed(0))
    assert spec.patch in patches
    assert space.build(spec, image).module(torch.zeros(1, 3, *size)).shape == (1, 10)


@pytest.mark.parametrize(("size", "patches"), [((101, 101), "1"), ((96, 100), "1, 2, 4")])
def test_of_an_image_that_no_patch_cuts_into_few_it_is_said_which_the_study_may_name(size, patches):
    image = IO((Field("image", "image", (3, *size)),), (Field("logits", "logits", (10,)),))
    said = rf"cuts the image into 576 or fewer; the study may name more: a patch of {patches}\."
    with pytest.raises(StudyError, match=rf"none of 1, 2, .* can be built. Expected one that {said}"):
        VitSpace().narrowed(image)
    named = int(patches[-1])
    region = searchable(VitSpec, {"patch": {"choices": [named]}}, "student.spec")
    assert VitSpace(region).narrowed(image).sample(torch.Generator().manual_seed(0)).patch == named
