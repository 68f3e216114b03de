"""Small real networks, a few of them trained on scikit-learn's digits: what the tests of deploy and of compressors share."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor, nn

from kdsearch.kinds import IO, Batch, Field, Graph

IMAGE = Field("image", "image", (1, 8, 8))
LOGITS = Field("logits", "logits", (10,), use="target")
DIGITS = IO((IMAGE,), (LOGITS,))


class Residual(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.stages = nn.ModuleList([_Block(width, width, 1), _Block(width, 2 * width, 2)])
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.head(x.mean((2, 3)))


class _Block(nn.Module):
    def __init__(self, c: int, d: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c, d, 3, stride, 1, bias=False), nn.BatchNorm2d(d)
        self.conv2, self.bn2 = nn.Conv2d(d, d, 3, 1, 1, bias=False), nn.BatchNorm2d(d)
        same = c == d and stride == 1
        self.short = nn.Identity() if same else nn.Sequential(nn.Conv2d(c, d, 1, stride, bias=False), nn.BatchNorm2d(d))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.short(x))


class Depthwise(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.Hardswish())
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, 2, 1, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU6(),
            nn.Conv2d(width, 2 * width, 1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU6(),
        )
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x)).mean((2, 3)))


class Mlp(nn.Sequential):
    def __init__(self, width: int = 128) -> None:
        super().__init__(
            nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
        )


class Vit(nn.Module):
    """Patches of 2 x 2, one attention block written out with scaled_dot_product_attention."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, 2)
        self.place = nn.Parameter(torch.randn(1, 16, width) * 0.02)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        t = self.patches(x).flatten(2).transpose(1, 2) + self.place
        t = t + self.attention(self.norm1(t))
        t = t + self.mlp(self.norm2(t))
        return self.head(t.mean(1))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, t: Tensor, mask: Tensor | None = None) -> Tensor:
        b, n, d = t.shape
        q, k, v = self.qkv(t).reshape(b, n, 3, self.num_heads, d // self.num_heads).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(mixed.transpose(1, 2).reshape(b, n, d))


class Tokens(nn.Module):
    """Token ids (B, T) and a padding mask (B, T) -> logits (B, T, 20) and a pooled vector (B, 16), as a dict out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attention, self.out = nn.Embedding(20, 16), Attention(16, 2), nn.Linear(16, 20)

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        t = self.embed(ids)
        t = t + self.attention(t, mask[:, None, None, :].bool())
        return {"pooled": t.mean(1), "logits": self.out(t)}


class Lstm(nn.Module):
    def __init__(self, channels: int = 8, width: int = 24) -> None:
        super().__init__()
        self.lstm, self.head = (
            nn.LSTM(channels, width, 2, batch_first=True, bidirectional=True),
            nn.Linear(2 * width, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0].mean(1))


NETS = {"residual": Residual, "depthwise": Depthwise, "mlp": Mlp, "vit": Vit}


@functools.cache
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, test images and labels: 1,200 and 597 of (1, 8, 8) in about [-1, 1]."""
    from sklearn.datasets import load_digits

    found = load_digits()
    x = torch.from_numpy((found.images / 8 - 1).astype(np.float32))[:, None]
    y = torch.from_numpy(found.target.astype(np.int64))
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return x[:1200], y[:1200], x[1200:], y[1200:]


@functools.cache
def _trained_state(name: str, steps: int) -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = NETS[name]()
    x, y, _, _ = digits()
    rng = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(net.parameters(), 4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(0, len(x), (96,), generator=rng)
        loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.state_dict()


def trained(name: str, steps: int = 150) -> nn.Module:
    """A fresh copy of the network called `name`, trained `steps` steps on digits, in eval mode."""
    net = NETS[name]()
    net.load_state_dict(_trained_state(name, steps))
    return net.eval()


def graph_of(net: nn.Module) -> Graph:
    return Graph(net, DIGITS.inputs, DIGITS.outputs)


def batch_of(**tensors: Tensor) -> Batch:
    n = len(next(iter(tensors.values())))
    return Batch(tuple(f"s{i}" for i in range(n)), tensors)
