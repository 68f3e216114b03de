"""Encoders with decoders: the contract, what each place may see, and padding that nothing sees."""

from typing import ClassVar

import pytest
import torch
from kdsearch_spaces.decoder.encoder_layers import Attention, BothWays
from kdsearch_spaces.decoder.seq2seq import Seq2SeqSpace, Seq2SeqSpec
from torch.nn import functional as F

from kdsearch.errors import DataError, StudyError
from kdsearch.kinds import IO, Field
from kdsearch.testing.space import SearchSpaceContract

V = 11


def io_of(n=None, m=None):
    names = (("tokens", "mask", n), ("prefix", "prefix_mask", m))
    pairs = [(Field(a, "tokens", (k,), "int64", n_values=V), Field(b, "mask", (k,), "int64")) for a, b, k in names]
    return IO((*pairs[0], *pairs[1]), (Field("logits", "logits", (m, V), mask="prefix_mask"),))


class TestSeq2Seq(SearchSpaceContract):
    space = Seq2SeqSpace
    spec: ClassVar = {"width": {"choices": [16, 32]}, "encoder_layers": {"choices": [1, 2]}, "decoder_layers": 1}

    def io(self):
        return io_of(7, 5)


@pytest.mark.parametrize("kind", ["transformer", "gru"])
def test_what_each_place_sees(kind):
    torch.manual_seed(0)
    net = Seq2SeqSpace().build(Seq2SeqSpec(kind=kind, width=16, heads=2), io_of()).module.eval()
    tokens, prefix = torch.randint(3, V, (2, 6)), torch.randint(3, V, (2, 5))
    ones = torch.ones_like
    with torch.no_grad():
        plain = net(tokens, ones(tokens), prefix, ones(prefix))
        later = prefix.clone()
        later[:, 3:] = (later[:, 3:] + 1) % V
        changed = net(tokens, ones(tokens), later, ones(prefix))
        assert torch.equal(plain[:, :3], changed[:, :3])
        assert not torch.isclose(plain[:, 3], changed[:, 3]).all()
        last = tokens.clone()
        last[:, -1] = (last[:, -1] + 1) % V
        read = net(last, ones(tokens), prefix, ones(prefix))
        assert not torch.isclose(plain[:, 0], read[:, 0]).all(), "the first place does not see the whole text"
        wide = F.pad(tokens, (0, 3), value=4), F.pad(ones(tokens), (0, 3)), F.pad(prefix, (0, 2), value=5)
        padded = net(*wide, F.pad(ones(prefix), (0, 2)))
        assert torch.allclose(plain, padded[:, :5], atol=1e-5)


def test_attention_is_torchs():
    torch.manual_seed(0)
    layer, x, memory = Attention(16, 2, 0.0, places=False).eval(), torch.randn(2, 4, 16), torch.randn(2, 7, 16)
    real = torch.arange(7) < torch.tensor([[7], [3]])
    q = layer.q(x).unflatten(-1, (2, 8)).transpose(1, 2)
    k, v = layer.kv(memory).unflatten(-1, (2, 2, 8)).permute(2, 0, 3, 1, 4)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=real[:, None, None])
    assert torch.allclose(layer(x, memory, real), layer.out(expected.transpose(1, 2).flatten(2)), atol=1e-6)


def test_the_way_back_begins_at_the_last_token():
    torch.manual_seed(0)
    layer, x = BothWays(8, 0.0).eval(), torch.randn(1, 6, 8)
    short = layer(x[:, :4], torch.ones(1, 4, dtype=torch.bool))
    among = layer(x, torch.arange(6)[None] < 4)
    assert torch.allclose(short, among[:, :4], atol=1e-6)
    assert bool((among[:, 4:] == 0).all())
    expected = layer.back(x[:, :4].flip(1))[0].flip(1)
    assert torch.allclose(short[..., 4:], expected, atol=1e-6)


def test_what_cannot_be_built_is_told():
    with pytest.raises(StudyError, match="no multiple of 2 x 4 heads"):
        Seq2SeqSpace().build(Seq2SeqSpec(width=36, heads=4), io_of())
    with pytest.raises(DataError, match="as of the task seq2seq"):
        Seq2SeqSpace().build(Seq2SeqSpec(), IO(io_of().inputs[:2], io_of().outputs))
