"""A product whose file takes more in and gives more out than its network: asked as the network alone, by way of the whole file."""

import torch
from torch import nn

from kdsearch.kinds import Batch, Ends, Field, Graph, Product
from kdsearch.stages.ends import around

ROW = Field("x", "vector", (2,))
BESIDE = Graph(nn.Identity(), (Field("z", "vector", (2,)),), (Field("w", "vector", (2,)),))


def product():
    """y of a graph that doubles x, and w of one beside it."""

    def call(calls, batch):
        return {**calls["main"](batch["x"]), **calls["beside"](batch["z"])}

    return Product({"main": Graph(nn.Identity(), (ROW,), (Field("y", "vector", (2,)),)), "beside": BESIDE}, call)


def test_what_a_whole_file_reads_and_answers_is_turned_round():
    whole = Graph(nn.Identity(), (Field("raw", "vector", (2,)),), (Field("logs", "vector", (2,)),))
    ends = Ends(whole, lambda x: (10 * x,), lambda said: {"y": said["logs"].exp()}, {"input": "tenths"})
    found = around(product(), {"main": ends})
    assert found.graphs == {"main": whole, "beside": BESIDE}
    read = []

    def file(raw):  # tenths in, logarithms of the doubled number out
        read.append(raw)
        return {"logs": (2 * raw / 10).log()}

    x, z = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])
    got = found.call({"main": file, "beside": lambda each: {"w": each}}, Batch(("a",), {"x": x, "z": z}))
    assert torch.equal(read[0], 10 * x)
    torch.testing.assert_close(got["y"], 2 * x)
    assert torch.equal(got["w"], z)
