"""Decoders: the contract, causality, padding that nothing sees, layers against torch's own, and files of any length."""

from typing import ClassVar

import pytest
import torch
from kdsearch_spaces.decoder.layers import CausalAttention, ConvLayer, turned
from kdsearch_spaces.decoder.space import DecoderSpace, DecoderSpec
from torch.nn import functional as F

from kdsearch.builtin.onnx_exporter import OnnxExporter, OnnxOptions
from kdsearch.builtin.text.causal_lm import CausalLm
from kdsearch.deploy.cost import count
from kdsearch.deploy.parity import compare, module_call
from kdsearch.errors import DataError, StudyError
from kdsearch.kinds import IO, Field, NoOptions
from kdsearch.kinds.forward import recorded
from kdsearch.testing.space import SearchSpaceContract

V = 13
KINDS = ("transformer", "conv", "lstm", "gru")


def io_of(length=None):
    inputs = (Field("tokens", "tokens", (length,), "int64", n_values=V), Field("mask", "mask", (length,), "int64"))
    return IO(inputs, (Field("logits", "logits", (length, V), mask="mask"),))


def built(kind, io=None, **fields):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        spec = DecoderSpec(kind=kind, **{"layers": 2, "width": 16, "heads": 2, "kernel": 3, **fields})
        return DecoderSpace().build(spec, io or io_of())


class TestDecoder(SearchSpaceContract):
    space = DecoderSpace
    spec: ClassVar = {"width": {"choices": [16, 32]}, "layers": {"choices": [1, 2]}}
    samples = 8

    def io(self):
        return io_of(11)


@pytest.mark.parametrize("kind", KINDS)
def test_no_place_sees_a_later_one(kind):
    net = built(kind).module.eval()
    tokens = torch.randint(1, V, (2, 9), generator=torch.Generator().manual_seed(1))
    changed = tokens.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % V
    ones = torch.ones_like(tokens)
    with torch.no_grad():
        a, b = net(tokens, ones), net(changed, ones)
    assert torch.equal(a[:, :5], b[:, :5])
    assert not torch.isclose(a[:, 5], b[:, 5]).all()
    with torch.no_grad():
        shifted = net(torch.cat([tokens[:, 1:2], tokens[:, 1:]], 1), ones)  # the first token is another one
    assert not torch.isclose(a[:, 1], shifted[:, 1]).all(), "a place sees itself alone"


@pytest.mark.parametrize("kind", KINDS)
def test_padding_is_seen_by_nothing(kind):
    model = built(kind)
    net = model.module.eval()
    tokens = torch.randint(1, V, (1, 6), generator=torch.Generator().manual_seed(1))
    longer = torch.cat([tokens, torch.tensor([[3, 0, 7]])], 1)
    mask = (torch.arange(9) < 6).long()[None]
    taps = [tap for tap in model.taps if tap.name.startswith(("stem", "stage"))]
    with torch.no_grad(), recorded(model, taps) as seen:
        alone, among = net(tokens, torch.ones_like(tokens)), net(longer, mask)
    assert torch.allclose(alone, among[:, :6], atol=1e-6)
    for tap in taps:
        assert bool((seen[tap.name][:, 6:] == 0).all()), tap.name


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_reads_any_batch_and_length(kind, tmp_path):
    io = io_of()
    model = built(kind, io)
    graph = CausalLm(NoOptions()).product(model, io).graphs["model"]
    samples = CausalLm(NoOptions()).dummy(io, 3, torch.Generator().manual_seed(0))
    exporter = OnnxExporter(OnnxOptions())
    file = tmp_path / "a.onnx"
    exporter.write(graph, samples, file)
    found = compare(module_call(graph), exporter.load(file), graph.inputs, graph.outputs, samples)
    assert found.max_abs < 1e-5
    assert found.judged > 0


def test_attention_is_torchs():
    torch.manual_seed(0)
    layer, x = CausalAttention(16, 2, 0.0).eval(), torch.randn(2, 7, 16)
    q, k, v = layer.qkv(x).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
    at = torch.arange(7)
    expected = F.scaled_dot_product_attention(turned(q, at), turned(k, at), v, is_causal=True)
    assert torch.allclose(layer(x), layer.out(expected.transpose(1, 2).flatten(2)), atol=1e-6)


def test_products_of_turned_vectors_depend_on_distances():
    rng = torch.Generator().manual_seed(0)
    q, k = (torch.randn(8, generator=rng).double().expand(1, 1, 20, 8) for _ in range(2))
    scores = turned(q, torch.arange(20)) @ turned(k, torch.arange(20)).mT
    for distance in range(-5, 6):
        line = scores[0, 0].diagonal(distance)
        assert torch.allclose(line, line[:1].expand_as(line))
    assert torch.allclose(turned(q, torch.arange(20)).norm(dim=-1), q.norm(dim=-1))


def test_a_convolution_sees_its_kernel_apart():
    torch.manual_seed(0)
    layer = ConvLayer(4, kernel=3, dilation=2, ffn=1, dropout=0.0).eval()
    x = torch.randn(1, 12, 4, requires_grad=True)
    layer(x, torch.ones(1, 12, dtype=torch.bool))[0, 9].square().sum().backward()
    assert (x.grad[0].abs().sum(1) > 0).nonzero()[:, 0].tolist() == [5, 7, 9]


def test_distances_of_many_convolutions_begin_again():
    """van den Oord et al. 2016, section 2.1: doubled up to 512, then repeated. 48 doublings would pad by petabytes."""
    net = built("conv", layers=48, width=2, kernel=2, ffn=1).module.eval()
    assert [layer.conv.dilation[0] for layer in net.layers[:12]] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1, 2]
    tokens = torch.ones(1, 5, dtype=torch.int64)
    with torch.no_grad():
        assert net(tokens, tokens).isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_costs_of_open_lengths_are_of_the_stated_one(kind):
    tokens = Field("tokens", "tokens", (None,), "int64", n_values=V, open_size=21)
    io = IO(
        (tokens, Field("mask", "mask", (None,), "int64", open_size=21)),
        (Field("logits", "logits", (None, V), open_size=21),),
    )
    model = built(kind, io)
    assert model.cost() == count(model, io)


def test_what_cannot_be_built_is_told():
    with pytest.raises(StudyError, match="no multiple of 2 x 3 heads"):
        built("transformer", heads=3)
    with pytest.raises(DataError, match="task causal_lm"):
        built("lstm", IO((Field("image", "image", (3, 8, 8)),), (Field("logits", "logits", (5,)),)))
    tokens, mask = io_of().inputs
    with pytest.raises(DataError, match="logits of 13 tokens at each place"):
        built("lstm", IO((tokens, mask), (Field("logits", "logits", (5,)),)))
