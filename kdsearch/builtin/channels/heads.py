"""torch's attention with heads that need not fill the width of its stream: `nn.MultiheadAttention` computes their width from it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class HeadAttention(nn.Module):
    """What `nn.MultiheadAttention` computes, by weights of the same names; heads need not fill the stream.

    Args:
        layer: query, key and value of one width, without `bias_k` and `add_zero_attn`; its weights are shared, not copied.
    """

    # what torch's encoder layer looks at to take a kernel of its own, which knows no such heads
    _qkv_same_embed_dim = False

    def __init__(self, layer: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads, self.head_dim = layer.num_heads, layer.head_dim
        self.batch_first, self.dropout = layer.batch_first, layer.dropout
        self.in_proj_weight, self.in_proj_bias = layer.in_proj_weight, layer.in_proj_bias
        self.out_proj = nn.Linear(1, 1, device="meta")
        self.out_proj.weight, self.out_proj.bias = layer.out_proj.weight, layer.out_proj.bias
        self.out_proj.in_features, self.out_proj.out_features = layer.out_proj.in_features, layer.out_proj.out_features
        self.train(layer.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        is_batched = query.dim() == 3
        if not is_batched:
            query, key, value = (each[None] for each in (query, key, value))
        elif not self.batch_first:
            query, key, value = (each.transpose(0, 1) for each in (query, key, value))
        biases = [None] * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, weight, bias)
            .reshape(*x.shape[:2], self.num_heads, self.head_dim)
            .transpose(1, 2)  # (B, heads, N, d)
            for x, weight, bias in zip((query, key, value), self.in_proj_weight.chunk(3), biases, strict=True)
        )
        mask = self._mask(attn_mask, key_padding_mask, q)
        weights: Tensor | None = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) / self.head_dim**0.5
            weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), self.dropout, self.training)
            mixed = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            drop = self.dropout if self.training else 0.0
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=drop)
        out = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if not is_batched:
            return out[0], None if weights is None else weights[0]
        return out if self.batch_first else out.transpose(0, 1), weights

    def _mask(self, attn_mask: Tensor | None, padding: Tensor | None, q: Tensor) -> Tensor | None:
        """What is added to the scores: (B or 1, heads or 1, N or 1, M)."""
        found: Tensor | None = None
        if attn_mask is not None:
            found = _added(attn_mask, q)
            found = found[None, None] if found.dim() == 2 else found.reshape(q.shape[0], -1, *found.shape[1:])
        if padding is not None:
            added = _added(padding, q)
            added = (added if added.dim() == 2 else added[None])[:, None, None]
            found = added if found is None else found + added
        return found


def _added(mask: Tensor, q: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(q.dtype)
    return torch.zeros_like(mask, dtype=q.dtype).masked_fill_(mask, float("-inf"))


def opens(part: nn.Module) -> bool:
    """Whether `HeadAttention` can take the place of this module."""
    return (
        type(part) is nn.MultiheadAttention
        and part.in_proj_weight is not None
        and part.bias_k is None
        and not part.add_zero_attn
    )


def open_heads(module: nn.Module, paths: Iterable[str]) -> nn.Module:
    """Put `HeadAttention` in the place of attention at these paths. Changes the module, and gives it back.

    An encoder around them would else hand its layers nested tensors, which only torch's own read, where it is given a padding mask.
    """
    for path in paths:
        part: Any = module.get_submodule(path)
        if isinstance(part, HeadAttention):
            continue
        above, _, name = path.rpartition(".")
        if not above and not name:
            return HeadAttention(part)
        setattr(module.get_submodule(above), name, HeadAttention(part))
    for part in module.modules():
        if isinstance(part, nn.TransformerEncoder) and any(isinstance(each, HeadAttention) for each in part.modules()):
            part.use_nested_tensor = False
    return module


def openable(module: nn.Module) -> list[str]:
    return [path for path, part in module.named_modules() if opens(part)]
