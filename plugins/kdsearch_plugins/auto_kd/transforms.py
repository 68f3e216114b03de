"""What a loss compares: transformed maps (B, C, H, W) and logits (N, K), as rows for a distance.

The primitives are those of Auto-KD (Li et al., ICCV 2023); see the README for what is reconstructed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from kdsearch.ops.relation import channel_relation, relation_matrix, scale_of
from kdsearch.ops.softened import full

Transform = Literal["identity", "attention", "batch_gram", "channel_gram"]
Over = Literal["space", "batch"]
Part = Literal["all", "transposed", "target", "non_target"]
SIZES = (2, 4, 1)  # windows of `multi_scale` and patches a side of `local`, as in the released primitives


def scales(maps: Tensor) -> Iterator[Tensor]:
    """The map max-pooled by 2, 4 and 1; windows larger than the map are left out."""
    for window in SIZES:
        if window <= min(maps.shape[-2:]):
            yield F.max_pool2d(maps, window) if window > 1 else maps


def patches(maps: Tensor) -> Iterator[Tensor]:
    """The map cut into 2 x 2, 4 x 4 and 1 x 1 patches, as even as they come; cuts finer than a pixel are left out."""
    for n in SIZES:
        if n <= min(maps.shape[-2:]):
            for row in torch.tensor_split(maps, n, dim=-2):
                yield from torch.tensor_split(row, n, dim=-1)


def transformed(name: Transform, maps: Tensor) -> Tensor:
    """The compared tensor, its last axis being what `softmax: space` goes over.

    identity: (B, C, HW); attention: sum_c |f_c|^2 over its length, (B, 1, HW), after Zagoruyko and Komodakis, ICLR 2017 (arXiv
    1612.03928); batch_gram: (1, B, B) and channel_gram: (B, C, C), rows of length 1 (see `ops.relation`).
    """
    if name == "identity":
        return maps.flatten(2)
    if name == "attention":
        energy = (full(maps) / scale_of(maps)).square().sum(1).flatten(1)  # (B, HW)
        return F.normalize(energy, dim=1)[:, None]
    return relation_matrix(maps)[None] if name == "batch_gram" else channel_relation(maps)


def as_rows(x: Tensor, name: Transform) -> Tensor:
    """(N, D) for distances by length and angle: of maps a row for each sample, of relations each of their rows."""
    return x.flatten(1) if name in ("identity", "attention") else x.flatten(0, 1)


def as_scores(x: Tensor, name: Transform, over: Over) -> Tensor:
    """(N, D) whose softmax is compared: over places for each channel (of relations, over a row), or over samples for each entry."""
    if over == "space":
        return x.flatten(0, 1)
    return x[0].mT if name == "batch_gram" else x.flatten(1).mT


def parts(name: Part, z: Tensor, target: Tensor) -> Tensor:
    """Log scores (N, D) whose softmax is the compared distribution, from logits / T (N, K) and classes (N,).

    all: over the classes of a sample. transposed: over the samples for a class, (K, N), the intra-class relation of DIST. target:
    (p_target, 1 - p_target); non_target: over the other classes; both as in DKD (Zhao et al., CVPR 2022, arXiv 2203.08679).
    """
    log_p = F.log_softmax(full(z), 1)
    if name == "all":
        return log_p
    if name == "transposed":
        return log_p.mT
    is_target = F.one_hot(target, z.shape[1]).bool()
    others = log_p[~is_target].view(len(z), z.shape[1] - 1)
    if name == "non_target":
        return others
    return torch.cat([log_p[is_target][:, None], others.logsumexp(1, keepdim=True)], 1)
