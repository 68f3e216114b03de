"""Networks in the units of their fields: standardised inside, copied along, in files too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from kdsearch.builtin.onnx_exporter import OnnxExporter, OnnxOptions
from kdsearch.kinds import IO, Batch, Field, Graph, Model
from kdsearch.kinds.units import in_units

X = Field("numbers", "vector", (3,), mean=(5.0, 0.0, 1e6), std=(2.0, 1.0, 1e3))
Y = Field("value", "value", (2,), mean=(1990.0, 0.0), std=(10.0, 1e-3))
IDS = Field("categories", "categories", (1,), "int64", n_values=4)
PLAIN = IO(tuple(replace(each, mean=(), std=()) for each in (X, IDS)), (replace(Y, mean=(), std=()),))
OWN = IO((X, IDS), (Y,))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(4, 2), nn.Linear(5, 2)

    def forward(self, numbers, ids):
        return self.out(torch.cat([numbers, self.embed(ids).flatten(1)], 1))


def model(io):
    torch.manual_seed(0)
    return in_units(Model(Net(), ("numbers", "categories"), outputs=("value",)), io)


def batch(n=6):
    rng = torch.Generator().manual_seed(1)
    return X.noise(n, rng), IDS.noise(n, rng)


def test_numbers_are_read_standardised_and_values_answered_in_their_units():
    numbers, ids = batch()
    own, plain = model(OWN).module, model(PLAIN).module
    z = plain((numbers - torch.tensor(X.mean)) / torch.tensor(X.std), ids)
    expected = z.double() * torch.tensor(Y.std, dtype=torch.float64) + torch.tensor(Y.mean, dtype=torch.float64)
    np.testing.assert_allclose(own(numbers, ids).detach().numpy(), expected.detach().numpy(), rtol=1e-6, atol=1e-9)
    assert list(own.state_dict()) == list(plain.state_dict())


def test_a_number_that_is_missing_is_read_as_the_mean():
    numbers, ids = batch()
    filled = numbers.clone()
    filled[0, 1], filled[2, 2] = 0.0, 1e6
    numbers[0, 1], numbers[2, 2] = torch.nan, torch.nan
    own = model(OWN).module
    assert torch.equal(own(numbers, ids), own(filled, ids))


def test_copies_are_in_the_same_units_and_nothing_is_done_to_fields_without():
    numbers, ids = batch()
    own = model(OWN)
    assert torch.equal(own.copy().module(numbers, ids), own.module(numbers, ids))
    assert not model(PLAIN).module._forward_hooks
    assert not model(PLAIN).module._forward_pre_hooks


def test_noise_is_spread_as_the_data_are():
    drawn = X.noise(4000, torch.Generator().manual_seed(0)).double()
    np.testing.assert_allclose((drawn.mean(0) - torch.tensor(X.mean)) / torch.tensor(X.std), 0, atol=0.06)
    np.testing.assert_allclose(drawn.std(0) / torch.tensor(X.std), 1, atol=0.06)


def test_under_autocast_answers_keep_the_digits_of_their_units():
    """In bfloat16, of 8 bits, the years 1990 +- 10 are 1992, 1984 and the like."""
    z = torch.linspace(-2, 2, 50).reshape(25, 2)
    net = in_units(Model(nn.Identity(), ("numbers",), outputs=("value",)), IO((replace(X, mean=(), std=()),), (Y,)))
    rounded = z.bfloat16()
    found = net.module(rounded)
    expected = rounded.double().numpy() * np.array(Y.std) + np.array(Y.mean)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-9)
    assert net.module(rounded.double()).dtype == torch.float64


@pytest.mark.parametrize("engine", ["dynamo", "torchscript"])
def test_a_file_reads_and_answers_in_the_same_units(tmp_path, engine):
    numbers, ids = batch()
    own = model(OWN)
    graph = Graph(own.module, OWN.inputs, OWN.outputs)
    exporter = OnnxExporter(OnnxOptions(engine=engine))
    exporter.write(graph, Batch(tuple("abcdef"), {"numbers": numbers, "categories": ids}), tmp_path / "m.onnx")
    numbers[1, 0] = torch.nan
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    for n in (1, 5):
        (got,) = session.run(None, {"numbers": numbers[:n].numpy(), "categories": ids[:n].numpy()})
        np.testing.assert_allclose(got, own.module.eval()(numbers[:n], ids[:n]).detach().numpy(), rtol=1e-5, atol=1e-6)


class Lengths(nn.Module):
    def forward(self, tokens, mask, present):
        return (tokens * mask).sum(1, keepdim=True) + mask.sum(1, keepdim=True).float()


def test_of_a_sequence_that_a_sample_lacks_the_mask_is_not_read_either():
    tokens, mask = Field("words", "tokens", (None,), "int64", n_values=9), Field("words_mask", "mask", (None,), "int64")
    io = IO((tokens, mask, Field("present_words", "present", ())), (Field("value", "value", (1,)),))
    net = in_units(Model(Lengths(), ("words", "words_mask", "present_words"), outputs=("value",)), io).module
    found = net(torch.tensor([[3, 4], [3, 4]]), torch.ones(2, 2, dtype=torch.int64), torch.tensor([1.0, 0.0]))
    assert found.tolist() == [[9.0], [0.0]]
