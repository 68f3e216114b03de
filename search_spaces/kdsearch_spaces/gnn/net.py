"""Graph networks on dense, padded ego-graphs, the node in question first.

GCN (Kipf and Welling, ICLR 2017, arXiv 1609.02907), GraphSAGE with the mean (Hamilton et al., NeurIPS 2017, arXiv 1706.02216) and
GAT (Velickovic et al., ICLR 2018, arXiv 1710.10903). Written here in plain torch: a dense ego-graph of some dozen nodes needs no
sparse kernels, and so goes into any ONNX runtime. Degrees are those within the ego-graph; each layer ends in a LayerNorm, which
the papers do not have.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Kind = Literal["gcn", "sage", "gat"]


class Gcn(nn.Module):
    """relu(norm(D^-1/2 (A + I) D^-1/2 H W)): h (B, N, D), a (B, N, N) of 0 and 1 without loops -> (B, N, W)."""

    def __init__(self, d_in: int, width: int, heads: int) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(d_in, width), nn.LayerNorm(width)

    def forward(self, h: Tensor, a: Tensor) -> Tensor:
        scale = (a.sum(2, keepdim=True) + 1).rsqrt()  # (B, N, 1)
        x = self.linear(h) * scale
        out: Tensor = self.norm((a @ x + x) * scale).relu()
        return out


class Sage(nn.Module):
    """relu(norm(W_1 h + W_2 mean of the neighbours' h)); the mean is 0 of a node without any."""

    def __init__(self, d_in: int, width: int, heads: int) -> None:
        super().__init__()
        self.own, self.others = nn.Linear(d_in, width), nn.Linear(d_in, width, bias=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, h: Tensor, a: Tensor) -> Tensor:
        mean = (a @ h) / a.sum(2, keepdim=True).clamp(min=1)
        out: Tensor = self.norm(self.own(h) + self.others(mean)).relu()
        return out


class Gat(nn.Module):
    """relu(norm(sum over neighbours and itself of attention times W h)), heads side by side."""

    def __init__(self, d_in: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.linear, self.norm = nn.Linear(d_in, width), nn.LayerNorm(width)
        self.attends = nn.Linear(width, heads, bias=False)  # a's half of the node that attends, each head on all of W h
        self.attended = nn.Linear(width, heads, bias=False)  # and of the one that is attended to

    def forward(self, h: Tensor, a: Tensor) -> Tensor:
        x = self.linear(h)  # (B, N, W)
        towards, of = (
            self.attends(x).transpose(1, 2).unsqueeze(3),
            self.attended(x).transpose(1, 2).unsqueeze(2),
        )  # (B, heads, N, 1) and (B, heads, 1, N)
        reach = (a + torch.eye(a.shape[1], dtype=a.dtype, device=a.device)).unsqueeze(1)
        scores = F.leaky_relu(towards + of, 0.2) - 1e4 * (1 - reach)
        shares = scores.softmax(3)  # (B, heads, N, N)
        parts = x.unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, heads, N, W / heads)
        out: Tensor = self.norm((shares @ parts).transpose(1, 2).flatten(2)).relu()
        return out


LAYERS: dict[Kind, type[nn.Module]] = {"gcn": Gcn, "sage": Sage, "gat": Gat}


class Gnn(nn.Module):
    """nodes (B, N, D), adjacency (B, N, N), mask (B, N) -> logits (B, K) of the first node of each ego-graph."""

    def __init__(
        self, kind: Kind, d_in: int, width: int, layers: int, heads: int, dropout: float, n_outputs: int
    ) -> None:
        super().__init__()
        made = LAYERS[kind]
        self.layers = nn.ModuleList(made(d_in if i == 0 else width, width, heads) for i in range(layers))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, n_outputs)

    def forward(self, nodes: Tensor, adjacency: Tensor, mask: Tensor) -> Tensor:
        there = mask.to(nodes.dtype).unsqueeze(2)  # (B, N, 1)
        n = nodes.shape[1]
        loops = torch.eye(n, dtype=nodes.dtype, device=nodes.device)
        a = adjacency.to(nodes.dtype) * there * there.transpose(1, 2) * (1 - loops)
        h = nodes * there
        for layer in self.layers:
            h = self.dropout(layer(h, a)) * there
        logits: Tensor = self.classifier(h[:, 0])
        return logits
