"""What a field's noise is, and in which order a network's inputs leave with it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, nn

from kdsearch.builtin.classification import Classification, ClassificationOptions
from kdsearch.kinds import IO, Batch, Field, Model

TASK = Classification(ClassificationOptions())
LOGITS = Field("logits", "logits", (3,))


def rng(seed=0):
    return Generator().manual_seed(seed)


@given(st.integers(2, 50), st.sampled_from([None, 1, 5]), st.integers(0, 2**31))
@settings(deadline=None, max_examples=30)
def test_tokens_are_of_the_vocabulary(n_values, length, seed):
    drawn = Field("tokens", "tokens", (length,), "int64", n_values=n_values).noise(40, rng(seed))
    assert drawn.shape == (40, length or 8)
    assert drawn.dtype == torch.int64
    assert 0 <= int(drawn.min()) <= int(drawn.max()) < n_values


def test_every_value_is_drawn_and_nothing_else():
    tokens = Field("tokens", "tokens", (50,), "int64", n_values=7)
    assert tokens.noise(20, rng()).unique().tolist() == list(range(7))
    assert Field("flag", "vector", (50,), "int64").noise(20, rng()).unique().tolist() == [0, 1]


@pytest.mark.parametrize("dtype", ["int64", "bool", "float32"])
def test_a_mask_has_its_tokens_first_and_at_least_one(dtype):
    mask = Field("mask", "mask", (6,), dtype).noise(200, rng())
    assert mask.dtype == getattr(torch, dtype)
    lengths = mask.long().sum(1)
    assert torch.equal(mask.long(), (torch.arange(6) < lengths[:, None]).long())
    assert lengths.unique().tolist() == [1, 2, 3, 4, 5, 6]


def test_noise_depends_on_the_stream_only_and_sizes_close_what_is_open():
    field = Field("x", "sequence", (None, 4))
    assert field.sizes == (8, 4)
    assert torch.equal(field.noise(3, rng(5)), field.noise(3, rng(5)))
    assert not torch.equal(field.noise(3, rng(5)), field.noise(3, rng(6)))


def test_a_graph_takes_its_inputs_in_the_network_s_order():
    class Ratio(nn.Module):
        def forward(self, above, below):
            return above / below

    io = IO((Field("below", "vector", (3,)), Field("above", "vector", (3,))), (LOGITS,))
    product = TASK.product(Model(Ratio(), ("above", "below")), io)
    graph = product.graphs["model"]
    assert [each.name for each in graph.inputs] == ["above", "below"]
    batch = Batch(("a",), {"above": torch.full((1, 3), 6.0), "below": torch.full((1, 3), 2.0)})
    out = product.call({"model": lambda *x: {"logits": graph.module(*x)}}, batch)
    assert out["logits"].tolist() == [[3.0, 3.0, 3.0]]


def test_an_open_size_is_what_the_data_say():
    field = Field("tokens", "tokens", (None,), "int64", n_values=9, open_size=40)
    assert field.sizes == (40,)
    assert field.noise(2, rng()).shape == field.blank(2).shape == (2, 40)


@pytest.mark.parametrize("dtype", ["bool", "float32", "int64"])
def test_blanks_mask_nothing_and_miss_nothing(dtype):
    assert Field("mask", "mask", (None,), dtype).blank(2).long().sum() == 16
    assert Field("present_image", "present", (), dtype).blank(3).tolist() == [1, 1, 1]
    assert Field("x", "vector", (2,)).blank().tolist() == [[0, 0]]
    drawn = Field("present_image", "present", (), dtype).noise(200, rng())
    assert drawn.dtype == getattr(torch, dtype)
    assert drawn[0] == 1
    assert 120 < int(drawn.sum()) < 180
