"""The attention that takes torch's place computes the same, and loses whole heads."""

import pytest
import torch
from torch import nn

from kdsearch.builtin.channels.heads import HeadAttention, open_heads, openable
from kdsearch.builtin.channels.pruner import Channels, ChannelsOptions
from kdsearch.builtin.onnx_exporter import OnnxExporter, OnnxOptions
from kdsearch.deploy.files import read_onnx
from kdsearch.kinds import IO, Batch, Field, Graph, Model
from tests.builtin.channels.bare import bare


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_it_computes_what_torch_does(batch_first, bias):
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(24, 4, bias=bias, batch_first=batch_first).eval()
    if bias:
        nn.init.normal_(layer.in_proj_bias)
        nn.init.normal_(layer.out_proj.bias)
    own = HeadAttention(layer)
    assert {name: value.data_ptr() for name, value in own.state_dict().items()} == {
        name: value.data_ptr() for name, value in layer.state_dict().items()
    }
    q, k, v = torch.randn(3, 5, 24), torch.randn(3, 7, 24), torch.randn(3, 7, 24)
    if not batch_first:
        q, k, v = (each.transpose(0, 1) for each in (q, k, v))
    padding = torch.arange(7) >= torch.tensor([[7], [4], [2]])
    masks = [None, torch.randn(5, 7), torch.rand(5, 7) < 0.3, torch.randn(12, 5, 7)]
    masks[2][:, 0] = False
    with torch.no_grad():
        for mask in masks:
            for pad in (None, padding):
                if pad is not None and mask is not None and mask.dtype != torch.bool:
                    pad = torch.zeros(3, 7).masked_fill_(pad, -torch.inf)
                for options in ({}, {"need_weights": False}, {"average_attn_weights": False}):
                    given = {"key_padding_mask": pad, "attn_mask": mask, **options}
                    expected, found = layer(q, k, v, **given), own(q, k, v, **given)
                    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-6)
                    assert (found[1] is None) == (expected[1] is None)
                    if expected[1] is not None:
                        torch.testing.assert_close(found[1], expected[1], rtol=1e-5, atol=1e-6)
        x = torch.randn(5, 24)
        torch.testing.assert_close(own(x, x, x), layer(x, x, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("needed", [True, False])
def test_it_drops_what_torch_drops_while_it_trains(needed):
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True).train()
    x = torch.randn(2, 3, 8)
    answers = []
    for each in (layer, HeadAttention(layer)):
        torch.manual_seed(1)
        answers.append(each(x, x, x, need_weights=needed)[0])
    torch.testing.assert_close(*answers)
    assert not torch.equal(answers[1], HeadAttention(layer).eval()(x, x, x)[0])


class Answered(nn.Module):
    """Attention that is asked for its weights, too."""

    def __init__(self):
        super().__init__()
        self.attention = HeadAttention(nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True))

    def forward(self, x):
        return self.attention(x, x, x)[0]


def test_a_file_of_it_drops_nothing(tmp_path):
    field = Field("x", "sequence", (3, 8))
    graph = Graph(Answered(), (field,), (Field("y", "sequence", (3, 8)),))
    exporter = OnnxExporter(
        OnnxOptions(engine="torchscript")
    )  # which warns of what drops in a network that does not train
    exporter.write(graph, Batch(("a", "b"), {"x": torch.randn(2, 3, 8)}), tmp_path / "net.onnx")
    assert "Dropout" not in {node.op_type for node in read_onnx(tmp_path / "net.onnx").graph.node}


def test_what_is_opened_and_what_is_not():
    layer = nn.MultiheadAttention(8, 2)
    assert type(open_heads(layer, openable(layer))) is HeadAttention
    others = {"biased": {"add_bias_kv": True}, "zero": {"add_zero_attn": True}, "other_keys": {"kdim": 4}}
    net = nn.ModuleDict({name: nn.MultiheadAttention(8, 2, **given) for name, given in others.items()})
    assert openable(net) == []
    assert openable(nn.ModuleDict({"one": layer, "other": nn.MultiheadAttention(8, 2)})) == ["one", "other"]


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 24)
        layer = nn.TransformerEncoderLayer(24, 6, 48, 0.0, batch_first=True)
        self.layers, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(24, 10)

    def forward(self, tokens):
        return self.head(self.layers(self.embed(tokens)).mean(1))


def encoder():
    """With what a plan is made from."""
    torch.manual_seed(0)
    net = Encoder().eval()
    field = Field("tokens", "tokens", (None,), "int64", n_values=20)
    io = IO((field,), (Field("logits", "logits", (10,)),))
    return bare(Model(net, ("tokens",)), io)


def test_attention_that_loses_nothing_stays_torchs():
    given = encoder()
    pruner = Channels(ChannelsOptions(params=0.9, round_to=1, include=("*.linear1",), exclude=("embed",)))
    plan = pruner.plan(given)
    assert plan.edits["steps"][0]["opened"] == []
    small = pruner.apply(given.model, plan).module
    assert type(small.layers.layers[0].self_attn) is nn.MultiheadAttention
    assert small.layers.layers[0].linear1.out_features < 48


@pytest.mark.parametrize("options", [{"include": ("*.self_attn",), "exclude": ("embed",)}, {"include": ("embed",)}])
def test_heads_and_the_stream_of_torchs_encoder_go(options):
    given = encoder()
    net = given.model.module
    pruner = Channels(ChannelsOptions(macs=0.9, round_to=1, **options))
    plan = pruner.plan(given)
    small = pruner.apply(given.model, plan).module
    parts = [each for each in small.modules() if isinstance(each, HeadAttention)]
    assert parts
    assert plan.edits["steps"][0]["opened"] == [
        path for path, each in small.named_modules() if isinstance(each, HeadAttention)
    ]
    rows = {each.in_proj_weight.shape for each in parts}
    assert all(3 * each.num_heads * 4 == each.in_proj_weight.shape[0] for each in parts)
    assert rows != {(72, 24)}
    assert type(net.layers.layers[0].self_attn) is nn.MultiheadAttention
    tokens = torch.randint(0, 20, (3, 9))
    opened = open_heads(Encoder().eval(), openable(net))
    opened.load_state_dict(net.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(opened(tokens), net(tokens), rtol=1e-5, atol=1e-6)
        assert small(tokens).shape == (3, 10)
    small.train()(tokens).sum().backward()
