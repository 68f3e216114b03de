"""Blocks of networks: found as they run, taken out and put back."""

from collections import Counter

import numpy as np
import onnxruntime
import pytest
import torch
from kdsearch_plugins.hierarchical_prune.mmdit import TinyMmdit
from kdsearch_spaces.cifar_resnet.net import CifarResNet
from kdsearch_spaces.decoder.layers import TransformerLayer as DecoderLayer
from kdsearch_spaces.text_encoder.layers import TransformerLayer
from kdsearch_spaces.tiny_mit.net import Block as MitBlock
from kdsearch_spaces.vit.net import Vit
from timm.layers import LayerNorm2d, RmsNorm
from torch import nn

from kdsearch.errors import PluginError
from kdsearch.kit.blocks import ALL, Block, dead_parameters, edits_of, removed, surgery, weights_of
from kdsearch.kit.onnx import read_onnx
from kdsearch.kit.residual import blocks_of


def randomised(net):
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return net.eval()


class Layers(nn.Module):
    """What the text encoder and the decoder do with their layers."""

    def __init__(self, layers, *more):
        super().__init__()
        self.layers, self.more = nn.ModuleList(layers), more

    def forward(self, x):
        for layer in self.layers:
            x = layer(x, *self.more)
        return x


REAL = torch.ones(2, 5, dtype=torch.bool)
BRANCHES = {"norm1", "attention", "norm2"}
FOUND = [
    (lambda: Vit(1, (4, 4), 2, 8, 2, 2, (1, 2), "class", 3), (2, 1, 8, 8), 3, BRANCHES | {"mlp"}),
    (lambda: Layers([TransformerLayer(8, 2, 2, 0.1) for _ in range(2)], REAL), (2, 5, 8), 2, BRANCHES | {"ffn"}),
    (lambda: Layers([DecoderLayer(8, 2, 2, 0.1) for _ in range(2)], REAL), (2, 5, 8), 2, BRANCHES | {"ffn"}),
    (lambda: Layers([MitBlock(8, 2, 2, 2) for _ in range(2)], 4, 4), (2, 16, 8), 2, BRANCHES | {"mlp"}),
    (lambda: CifarResNet(3, (2, 2, 3), (4, 8, 8), 5), (2, 3, 8, 8), 5, {"branch"}),
]


@pytest.mark.parametrize(("make", "shape", "n", "names"), FOUND)
def test_blocks_are_found(make, shape, n, names):
    torch.manual_seed(0)
    net, x = randomised(make()), torch.randn(shape)
    before = net(x)
    blocks = blocks_of(net, [x])
    assert len(blocks) == n
    assert [block.index for block in blocks] == list(range(n))
    for block in blocks:
        assert set(block.components) == names
        for removal in ("identity", "zero"):
            for component in (*names, ALL):
                with surgery(net, blocks, [(block.index, component)], removal):
                    assert net(x).shape == before.shape
                    assert not torch.equal(net(x), before)
        with surgery(net, blocks, [(block.index, name) for name in names]), torch.no_grad():
            given = torch.randn(shape)
            assert net.get_submodule(block.path)(given) is given
    assert torch.equal(net(x), before)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize(("norm_first", "padded"), [(True, False), (False, False), (False, True)])
def test_torch_s_own_encoder_runs_without_each_part(norm_first, padded):
    """In eval mode it computes a layer at once from the weights of all parts, or all layers on nested tensors."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=norm_first)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first)
    net, x = randomised(Encoded(encoder, padded)), torch.randn(2, 5, 8)
    counted = torch.ones(2, 5, dtype=torch.bool) if net.mask is None else ~net.mask
    blocks = blocks_of(net, [x])
    assert all({"self_attn", "branch2"} <= set(block.components) for block in blocks)
    with torch.no_grad():
        before = net(x)
        for block in blocks:
            for component in (*block.components, ALL):
                for removal in ("identity", "zero"):
                    with surgery(net, blocks, [(block.index, component)], removal):
                        found = net.eval()(x)[counted]
                        assert torch.allclose(found, net.train()(x)[counted], atol=1e-5)
                        assert not torch.allclose(found, before[counted], atol=1e-4)
                    net.eval()
                    assert torch.equal(net(x), before)
        with surgery(net, blocks, [(0, ALL)]):
            second = encoder.layers[1].train()(x, src_key_padding_mask=net.mask)
            assert torch.allclose(net.eval()(x)[counted], second[counted], atol=1e-5)


class PostNorm(nn.Module):
    """As the first transformer: a norm of each sum."""

    def __init__(self):
        super().__init__()
        self.attn, self.norm1, self.mlp, self.norm2 = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.LayerNorm(8)

    def forward(self, x):
        x = self.norm1(x + self.attn(x))
        return self.norm2(x + self.mlp(x))


class Placed(nn.Module):
    """A norm first, and places that no part makes are added to what it answers."""

    def __init__(self):
        super().__init__()
        self.norm, self.places, self.attn = nn.LayerNorm(8), nn.Parameter(torch.randn(5, 8)), nn.Linear(8, 8)

    def forward(self, x):
        return x + self.attn(self.norm(x) + self.places.expand(len(x), 5, 8))


def test_norms_between_branches_are_of_neither():
    torch.manual_seed(0)
    net, x = randomised(Layers([PostNorm(), PostNorm()])), torch.randn(2, 5, 8)
    blocks = blocks_of(net, [x])
    assert [dict(block.components) for block in blocks] == [
        {"attn": (f"layers.{at}.attn",), "mlp": (f"layers.{at}.mlp",)} for at in range(2)
    ]
    first, second = net.layers
    y, z = first.norm1(x), first.norm1(x + first.attn(x))  # without attention, and with it
    for part, answer in (("attn", first.norm2(y + first.mlp(y))), ("mlp", first.norm2(z))):
        expected = second(answer)
        with surgery(net, blocks, [(0, part)], "zero"):
            assert torch.allclose(net(x), expected, atol=1e-6)
    (block,) = blocks_of(Layers([Placed()]), [x])
    assert set(block.components) == {"norm", "attn"}


class Encoded(nn.Module):
    def __init__(self, encoder, padded):
        super().__init__()
        self.encoder = encoder
        self.mask = torch.tensor([[False] * 5, [False] * 3 + [True] * 2]) if padded else None

    def forward(self, x):
        return self.encoder(x, src_key_padding_mask=self.mask)


class Mapped(nn.Module):
    def __init__(self, norm, part):
        super().__init__()
        self.norm, self.mlp = norm, part

    def forward(self, x):
        return x + self.mlp(self.norm(x))


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (lambda: LayerNorm2d(6), (2, 6, 6, 6)),
        (lambda: LayerNorm2d(6), (2, 6, 5, 7)),
        (lambda: RmsNorm(6), (2, 5, 6)),
        (lambda: nn.RMSNorm(6), (2, 5, 6)),
        (lambda: nn.GroupNorm(3, 6), (2, 6, 4, 4)),
        (lambda: nn.LayerNorm(6, eps=1e-2), (2, 5, 6)),
    ],
)
def test_a_norm_that_is_gone_is_the_same_without_weights(norm, shape):
    torch.manual_seed(0)
    part = nn.Conv2d(6, 6, 1) if len(shape) == 4 else nn.Linear(6, 6)
    net, x, fresh = randomised(Layers([Mapped(norm(), part)])), 3 + 2 * torch.randn(shape), norm()
    blocks = blocks_of(net, [x])
    with surgery(net, blocks, [(0, "norm")]):
        assert not list(net.layers[0].norm.parameters())
        assert torch.allclose(net.layers[0].norm(x), fresh(x), atol=1e-5)


def test_a_branch_of_zero_is_the_network_without_it():
    torch.manual_seed(0)
    net = randomised(Vit(1, (4, 4), 2, 8, 2, 2, (2,), "mean", 3))
    blocks, tokens = blocks_of(net, [torch.zeros(1, 1, 8, 8)]), torch.randn(2, 16, 8)
    block = net.stages[0][1]
    for names in (("attention",), ("norm1",), ("norm1", "attention")):
        with surgery(net, blocks, [(1, name) for name in names], "zero"):
            assert torch.allclose(block(tokens), tokens + block.mlp(block.norm2(tokens)))
    with surgery(net, blocks, [(1, "attention")]):
        inside = tokens + block.norm1(tokens)
        assert torch.allclose(block(tokens), inside + block.mlp(block.norm2(inside)), atol=1e-6)
    with surgery(net, blocks, [(1, "norm1")]):
        plain = (tokens - tokens.mean(-1, keepdim=True)) / (tokens.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        inside = tokens + block.attention(plain)
        assert torch.allclose(block(tokens), inside + block.mlp(block.norm2(inside)), atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("removal", ["identity", "zero"])
def test_what_is_left_is_exported(removal, tmp_path):
    """By tracing too: a norm without weights over a size that is none of the file's inputs was refused."""
    torch.manual_seed(0)
    net, x = randomised(Vit(1, (4, 4), 2, 8, 2, 2, (3,), "mean", 3)), torch.randn(2, 1, 8, 8)
    blocks = blocks_of(net, [x])
    nodes = []
    for parts in ([], [(1, "norm1"), (1, "attention"), (2, "norm2")], [(0, ALL), (1, ALL)]):
        with surgery(net, blocks, parts, removal):
            file = tmp_path / f"{len(parts)}.onnx"
            options = {"dynamo": False, "dynamic_axes": {"x": {0: "n"}}, "opset_version": 18, "input_names": ["x"]}
            torch.onnx.export(net, (x,), str(file), **options)
            session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
            more = torch.randn(5, 1, 8, 8)
            assert np.allclose(session.run(None, {"x": more.numpy()})[0], net(more).detach().numpy(), atol=1e-5)
            nodes.append(Counter(node.op_type for node in read_onnx(file).graph.node))
    assert nodes[0]["Softmax"] == 3
    assert nodes[1]["Softmax"] == 2
    assert nodes[2]["Softmax"] == 1, "blocks that are gone leave no node"


def test_a_dropout_that_branches_share_stays_for_the_other():
    net = Layers([TransformerLayer(8, 2, 2, 0.5)], REAL)
    blocks = blocks_of(net, [torch.randn(2, 5, 8)])
    with surgery(net, blocks, [(0, "attention")], "zero"):
        assert isinstance(net.layers[0].dropout, nn.Dropout)


def test_after_an_error_all_is_as_before():
    torch.manual_seed(0)
    net, x = randomised(CifarResNet(3, (2, 2, 2), (4, 8, 8), 5)), torch.randn(2, 3, 8, 8)
    blocks, before, parts = blocks_of(net, [x]), net(x), list(net.modules())
    with pytest.raises(ZeroDivisionError), surgery(net, blocks, [(0, ALL), (1, "branch")]):
        raise ZeroDivisionError
    assert torch.equal(net(x), before)
    assert all(a is b for a, b in zip(net.modules(), parts, strict=True))
    with pytest.raises(PluginError, match="no component 'attn'"), surgery(net, blocks, [(0, "attn")]):
        pass
    with pytest.raises(PluginError, match="has no residual block"):
        blocks_of(nn.Sequential(nn.Linear(3, 3)), [torch.zeros(1, 3)])


@pytest.fixture(scope="module")
def mmdit():
    torch.manual_seed(0)
    return randomised(TinyMmdit())


def asked(n=3):
    torch.manual_seed(1)
    return torch.randn(n, 1, 8, 8), torch.rand(n), torch.arange(n)


def test_the_tiny_mmdit_has_the_weights_that_it_should(mmdit):
    blocks = mmdit.block_list()
    assert sum(each.numel() for each in mmdit.parameters()) == 656_308
    assert [weights_of(mmdit, block, ALL) for block in blocks] == [84_384] * 7 + [53_952]
    sizes = [weights_of(mmdit, blocks[0], name) for name in blocks[0].components]
    assert sizes == [14_112, 14_112, 18_816, 18_672, 18_672]
    assert [weights_of(mmdit, blocks[7], name) for name in blocks[7].components] == [14_112, 4_704, 16_464, 18_672]
    fresh = TinyMmdit()
    assert (fresh(*asked()) == 0).all(), "the head starts at zero"
    h, c, e = torch.randn(2, 16, 48), torch.randn(2, 2, 48), torch.randn(2, 48)
    for block in fresh.blocks:
        out = block(h, c, e)
        assert torch.equal(out[0], h), "and so do the gates"
        assert torch.equal(out[1], c)


def test_surgery_on_every_part_leaves_nothing(mmdit):
    before, blocks = mmdit(*asked()), mmdit.block_list()
    parts = [(block.index, name) for block in blocks for name in (*block.components, ALL)]
    assert len(parts) == 39 + 8
    for part in parts:
        with surgery(mmdit, blocks, [part]), torch.no_grad():
            assert torch.isfinite(mmdit(*asked())).all(), part
    assert torch.equal(mmdit(*asked()), before)


def test_context_reaches_the_image_through_attention_alone(mmdit):
    x, level, cond = asked()
    assert not torch.allclose(mmdit(x, level, cond), mmdit(x, level, cond + 3))
    with surgery(mmdit, mmdit.block_list(), [(i, "attn") for i in range(8)]):
        assert torch.equal(mmdit(x, level, cond), mmdit(x, level, cond + 3))


def test_dead_weights_are_those_after_the_last_reader(mmdit):
    assert dead_parameters(mmdit, asked()) == []
    with surgery(mmdit, mmdit.block_list(), [(7, ALL)]):
        dead = dead_parameters(mmdit, asked())
    assert dead
    assert {name.split(".")[1] for name in dead} == {"6"}
    assert {name.split(".")[2] for name in dead} >= {"ff_context"}


def test_a_frozen_weight_is_dead_where_no_answer_depends_on_it_and_stays_frozen():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(3, 3), nn.Linear(3, 3)
            self.register_parameter("ids", nn.Parameter(torch.zeros(2, dtype=torch.int64), requires_grad=False))

        def forward(self, x):
            return self.used(x)

    net = Net()
    for module in (net.used, net.unused):
        module.weight.requires_grad_(False)
    assert dead_parameters(net, [torch.zeros(2, 3)]) == ["unused.weight", "unused.bias"]
    assert [each.requires_grad for each in net.parameters()] == [False, False, True, False, True]


def test_a_plan_is_replayed(mmdit):
    torch.manual_seed(2)
    other, blocks = TinyMmdit(), mmdit.block_list()
    parts = [(2, "ff"), (5, ALL), (6, "attn")]
    edits = edits_of(blocks, parts, "identity")
    assert [Block.of(each) for each in edits["blocks"]] == [blocks[2], blocks[5], blocks[6]]
    removed(other, edits)
    with surgery(mmdit, blocks, parts):
        other.load_state_dict(mmdit.state_dict(), strict=True)
        assert torch.equal(other.eval()(*asked()), mmdit(*asked()))
