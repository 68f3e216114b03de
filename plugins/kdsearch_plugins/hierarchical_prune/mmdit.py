"""A tiny multimodal diffusion transformer (Esser et al., ICML 2024, arXiv 2403.03206, section 4), to prune and to prove by.

Image tokens h (B, N, d), context tokens c (B, M, d), conditioning e (B, d) of the noise level alone: were the class added to it, as
the paper's pooled text is, the context stream would be redundant. A dual block, with gates and shifts that AdaLN-Zero makes of e:

    h <- h + gate_msa Attn_h(Norm1(h), Norm1c(c)),    h <- h + gate_mlp FF(LN2(h) (1 + scale_mlp) + shift_mlp),    c alike

The last block is context-pre-only: it reads c and leaves it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdsearch.kit.blocks import ALL, Block, Removal, Skipped

COMPONENTS = ("w_norm1", "w_norm1_context", "attn", "ff", "ff_context")
EPS = 1e-6


def normed(x: Tensor) -> Tensor:
    """Layer norm without weights, over D."""
    return F.layer_norm(x, x.shape[-1:], eps=EPS)


class AdaNorm(nn.Module):
    """x (B, N, d), e (B, d) -> modulated norm of x; gate_msa, shift_mlp, scale_mlp, gate_mlp (B, 1, d). 6 d^2 + 6 d weights."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.linear = nn.Linear(d, 6 * d)
        zero_(self.linear)

    def forward(self, x: Tensor, e: Tensor) -> tuple[Tensor, ...]:
        shift, scale, gate, *mlp = self.linear(F.silu(e)).unsqueeze(1).chunk(6, -1)
        return normed(x) * (1 + scale) + shift, gate, *mlp


class AdaNormOnly(nn.Module):
    """Shift and scale alone (B, N, d): what reads a stream for the last time. 2 d^2 + 2 d weights."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.linear = nn.Linear(d, 2 * d)
        zero_(self.linear)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        shift, scale = self.linear(F.silu(e)).unsqueeze(1).chunk(2, -1)
        out: Tensor = normed(x) * (1 + scale) + shift
        return out


class PlainAdaNorm(nn.Module):
    """AdaNorm without its linear map: gates `gate`, shift and scale 0. `only`: in the place of AdaNormOnly."""

    def __init__(self, only: bool, gate: float) -> None:
        super().__init__()
        self.only, self.gate = only, gate

    def forward(self, x: Tensor, e: Tensor) -> Any:
        zero = torch.zeros_like(e).unsqueeze(1)
        return normed(x) if self.only else (normed(x), zero + self.gate, zero, zero, zero + self.gate)


class JointAttention(nn.Module):
    """Both streams attend to both: (B, N, d), (B, M, d) -> the same; the second is None where `only` the first is answered."""

    def __init__(self, d: int, heads: int, only: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.qkv_context = nn.Linear(d, 3 * d), nn.Linear(d, 3 * d)
        self.out = nn.Linear(d, d)
        self.out_context = None if only else nn.Linear(d, d)

    def forward(self, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor | None]:
        joined = torch.cat([self.qkv(h), self.qkv_context(c)], 1)  # (B, N + M, 3 d)
        parts = joined.view(len(h), -1, 3, self.heads, h.shape[-1] // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind()
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        image, context = mixed[:, : h.shape[1]], mixed[:, h.shape[1] :]
        return self.out(image), None if self.out_context is None else self.out_context(context)


class BothPassed(nn.Module):
    """Attention that is not there: both its inputs, or zeros."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        return (h, c) if self.factor == 1.0 else (torch.zeros_like(h), torch.zeros_like(c))


class FfPassed(nn.Module):
    """A feed-forward net that is not there: its input, or zeros."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x if self.factor == 1.0 else torch.zeros_like(x)


def feed_forward(d: int, ratio: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Linear(d, ratio * d), nn.GELU(approximate="tanh"), nn.Linear(ratio * d, d))


class DualBlock(nn.Module):
    """(h, c, e) -> (h, c). Submodules in the order of COMPONENTS: freezing by position goes by it."""

    def __init__(self, d: int, heads: int, context_pre_only: bool) -> None:
        super().__init__()
        self.context_pre_only = context_pre_only
        self.w_norm1 = AdaNorm(d)
        self.w_norm1_context: nn.Module = AdaNormOnly(d) if context_pre_only else AdaNorm(d)
        self.attn = JointAttention(d, heads, context_pre_only)
        self.ff = feed_forward(d)
        self.ff_context = None if context_pre_only else feed_forward(d)

    def forward(self, h: Tensor, c: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        n, gate_msa, shift_mlp, scale_mlp, gate_mlp = self.w_norm1(h, e)
        of_context = self.w_norm1_context(c, e)
        n_c, *gates = (of_context,) if self.context_pre_only else of_context
        a, a_c = self.attn(n, n_c)
        h = h + gate_msa * a
        h = h + gate_mlp * self.ff(normed(h) * (1 + scale_mlp) + shift_mlp)
        if self.ff_context is not None:
            gate_msa, shift_mlp, scale_mlp, gate_mlp = gates
            c = c + gate_msa * a_c
            c = c + gate_mlp * self.ff_context(normed(c) * (1 + scale_mlp) + shift_mlp)
        return h, c


class TinyMmdit(nn.Module):
    """x (B, 1, side, side) in [-1, 1], level s (B,), class (B,) or null = n_classes -> velocity like x.

    656,308 weights as it stands. It says itself what its blocks are: see `kdsearch.kit.blocks.Structured`.
    """

    def __init__(
        self,
        side: int = 8,
        patch: int = 2,
        d: int = 48,
        heads: int = 4,
        depth: int = 8,
        n_classes: int = 10,
        n_context: int = 2,
    ) -> None:
        super().__init__()
        self.patch, self.grid, self.d, self.n_classes = patch, side // patch, d, n_classes
        self.patches = nn.Linear(patch * patch, d)
        self.position = nn.Parameter(torch.randn(1, self.grid**2, d) * 0.02)
        self.context = nn.Parameter(torch.randn(n_classes + 1, n_context, d) * 0.5)  # the last one is of no class
        self.level = nn.Sequential(nn.Linear(d, d), nn.SiLU(), nn.Linear(d, d))
        self.blocks = nn.ModuleList(DualBlock(d, heads, nth == depth - 1) for nth in range(depth))
        self.norm_out = AdaNormOnly(d)
        self.project = nn.Linear(d, patch * patch)
        zero_(self.project)

    def forward(self, x: Tensor, level: Tensor, cond: Tensor) -> Tensor:
        p, g = self.patch, self.grid
        tokens = x.unfold(2, p, p).unfold(3, p, p).reshape(len(x), g * g, p * p)
        h, c, e = self.patches(tokens) + self.position, self.context[cond], self.level(sinusoid(1000 * level, self.d))
        for block in self.blocks:
            h, c = block(h, c, e)
        out = self.project(self.norm_out(h, e)).view(len(x), g, g, p, p)
        image: Tensor = out.permute(0, 1, 3, 2, 4).reshape(len(x), 1, g * p, g * p)
        return image

    @property
    def null(self) -> Tensor:
        return torch.tensor([self.n_classes])

    def block_list(self) -> Sequence[Block]:
        found = []
        for index, block in enumerate(self.blocks):
            own = [name for name in COMPONENTS if getattr(block, name, None) is not None]
            parts = {name: (f"blocks.{index}.{name}",) for name in own}
            found.append(Block(index, f"blocks.{index}", parts, "dual", ("h", "c")))
        return found

    def make_identity(self, block: Block, component: str, removal: Removal) -> Mapping[str, nn.Module]:
        """Of the released code (`identity`): attention and feed-forward answer with their inputs, a norm loses its modulation."""
        factor = 1.0 if removal == "identity" else 0.0
        if component == ALL:
            return {block.path: Skipped(2)}
        path = block.components[component][0]
        if component == "attn":
            return {path: BothPassed(factor)}
        if component in ("ff", "ff_context"):
            return {path: FfPassed(factor)}
        is_only = component == "w_norm1_context" and "ff_context" not in block.components
        return {path: PlainAdaNorm(is_only, factor)}


def sinusoid(t: Tensor, d: int) -> Tensor:
    """(B,) -> (B, d): cosines and sines at frequencies 10000^(-i / (d / 2))."""
    angle = t[:, None] * torch.exp(-math.log(10000.0) * torch.arange(d // 2) / (d // 2))
    return torch.cat([angle.cos(), angle.sin()], 1)


def zero_(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
