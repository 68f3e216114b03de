"""Search space `gnn`: the contract, layers against NumPy, and what padding and order may not change."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch
from kdsearch_spaces.gnn.net import LAYERS, Gnn
from kdsearch_spaces.gnn.space import GnnSpace, GnnSpec

from kdsearch.errors import DataError, StudyError
from kdsearch.kinds import IO, Field
from kdsearch.testing.space import SearchSpaceContract

EGO = IO(
    (
        Field("nodes", "nodes", (5, 3)),
        Field("adjacency", "adjacency", (5, 5), "int64", n_values=2),
        Field("mask", "mask", (5,), "int64"),
    ),
    (Field("logits", "logits", (4,)),),
)


class TestGnn(SearchSpaceContract):
    space = GnnSpace
    spec: ClassVar = {"width": {"choices": [4, 6, 8]}, "layers": {"choices": [1, 2]}}
    samples = 6

    def io(self) -> IO:
        return EGO


def drawn(n=3, size=6, d=4, seed=0):
    """(nodes, adjacency, mask) of graphs that are symmetric, without loops, the last node padding."""
    rng = torch.Generator().manual_seed(seed)
    a = torch.randint(2, (n, size, size), generator=rng).triu(1)
    a = a + a.mT
    mask = torch.ones(n, size, dtype=torch.int64)
    mask[:, -1] = 0
    a[:, -1], a[:, :, -1] = 0, 0
    return torch.randn(n, size, d, generator=rng), a, mask


def net(kind, layers=2, heads=2, d=4, **given):
    torch.manual_seed(1)
    return Gnn(kind, d, 8, layers, heads, 0.0, 3, **given).double().eval()


def norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def by_hand(kind, layer, h, a):
    """One graph (N, D) by the papers' formulas, node by node."""
    p = {name: each.detach().numpy() for name, each in layer.named_parameters()}
    n = len(h)
    if kind == "gcn":
        degrees = a.sum(1) + 1
        x = h @ p["linear.weight"].T + p["linear.bias"]
        rows = [sum(x[j] / np.sqrt(degrees[i] * degrees[j]) for j in range(n) if a[i, j] or i == j) for i in range(n)]
    elif kind == "sage":
        mean = [h[a[i] == 1].mean(0) if a[i].any() else 0 * h[i] for i in range(n)]
        rows = [h[i] @ p["own.weight"].T + p["own.bias"] + mean[i] @ p["others.weight"].T for i in range(n)]
    else:
        x = h @ p["linear.weight"].T + p["linear.bias"]
        towards, of = x @ p["attends.weight"].T, x @ p["attended.weight"].T
        rows = []
        for i in range(n):
            reach = [j for j in range(n) if a[i, j] or i == j]
            parts = []
            for k in range(towards.shape[1]):
                e = np.array([towards[i, k] + of[j, k] for j in reach])
                e = np.exp(np.where(e > 0, e, 0.2 * e))
                w = x.shape[1] // towards.shape[1]
                parts.append(sum(s * x[j, k * w : (k + 1) * w] for s, j in zip(e / e.sum(), reach, strict=True)))
            rows.append(np.concatenate(parts))
    return np.maximum(norm(np.stack(rows)), 0)


@pytest.mark.parametrize("kind", list(LAYERS))
def test_layers_are_the_papers_formulas(kind):
    nodes, a, _ = drawn()
    layer = net(kind).layers[0]
    found = layer(nodes.double(), a.double()).detach().numpy()
    for i in range(3):
        np.testing.assert_allclose(found[i], by_hand(kind, layer, nodes[i].double().numpy(), a[i].numpy()), atol=1e-9)


@pytest.mark.parametrize("kind", list(LAYERS))
def test_padding_loops_and_the_order_of_the_others_change_nothing(kind):
    nodes, a, mask = drawn()
    model = net(kind)
    answer = model(nodes.double(), a, mask)
    noisy, wired = nodes.clone(), a.clone()
    noisy[:, -1] = 1e6
    wired[:, -1], wired[:, :, -1] = 1, 1
    wired += torch.eye(6, dtype=torch.int64) * (1 - wired)
    torch.testing.assert_close(model(noisy.double(), wired, mask), answer, atol=1e-9, rtol=0)
    longer = torch.nn.functional.pad(nodes, (0, 0, 0, 3)), torch.nn.functional.pad(a, (0, 3, 0, 3))
    torch.testing.assert_close(
        model(longer[0].double(), longer[1], torch.nn.functional.pad(mask, (0, 3))), answer, atol=1e-9, rtol=0
    )
    order = [0, 3, 1, 4, 2, 5]
    torch.testing.assert_close(
        model(nodes[:, order].double(), a[:, order][:, :, order], mask), answer, atol=1e-9, rtol=0
    )


@pytest.mark.parametrize("kind", list(LAYERS))
def test_a_layer_reads_one_step_further(kind):
    """A path 0 - 1 - 2: with one layer node 2 is not seen, with two it is."""
    nodes, mask = torch.randn(1, 3, 4, dtype=torch.float64), torch.ones(1, 3, dtype=torch.int64)
    a = torch.tensor([[[0, 1, 0], [1, 0, 1], [0, 1, 0]]])
    other = nodes.clone()
    other[:, 2] += 1
    for layers, sees in ((1, False), (2, True)):
        model = net(kind, layers)
        assert torch.allclose(model(nodes, a, mask), model(other, a, mask)) != sees


def test_heads_are_of_gat_alone():
    space = GnnSpace()
    assert space.canonical(GnnSpec(kind="gcn", heads=4)) == space.canonical(GnnSpec(kind="gcn", heads=2))
    assert space.canonical(GnnSpec(kind="gat", heads=4)).heads == 4
    with pytest.raises(StudyError, match="width 10 with 4 heads"):
        space.build(GnnSpec(kind="gat", width=10, heads=4), EGO)


def test_other_inputs_are_refused():
    with pytest.raises(DataError, match=r"'image' .*Expected ego-graphs: nodes"):
        GnnSpace().build(GnnSpec(), IO((Field("image", "image", (3, 8, 8)),), EGO.outputs))
