"""Rows of open length side by side: each is filled up to the longest."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def joined(batches: Sequence[Tensor], padding: float = 0) -> Tensor:
    """(B_1 + B_2 + ..., *largest sizes) of tensors (B_k, *sizes_k); what an axis lacks is `padding`, at its end.

    Raises:
        ValueError: they have different numbers of axes.
    """
    shapes = {each.shape[1:] for each in batches}
    if len(shapes) == 1:
        return torch.cat(list(batches))
    if len({len(shape) for shape in shapes}) > 1:
        raise ValueError(f"rows of {' and '.join(sorted(map(_shown, shapes)))}")
    largest = [max(sizes) for sizes in zip(*shapes, strict=True)]
    whole = batches[0].new_full((sum(len(each) for each in batches), *largest), padding)
    at = 0
    for each in batches:
        whole[(slice(at, at + len(each)), *(slice(size) for size in each.shape[1:]))] = each
        at += len(each)
    return whole


def stacked(rows: Sequence[Tensor], padding: float = 0) -> Tensor:
    """(B, *largest sizes) of B rows (*sizes)."""
    return joined([row[None] for row in rows], padding)


def resized(batch: Tensor, sizes: Sequence[int], padding: float = 0) -> Tensor:
    """(B, *sizes) of (B, ...): an axis that is shorter is filled up at its end, one that is longer is cut there."""
    cut = batch[(slice(None), *(slice(size) for size in sizes))]
    if list(cut.shape[1:]) == list(sizes):
        return cut
    return joined([cut, cut.new_empty((0, *sizes))], padding)


def _shown(shape: Sequence[int]) -> str:
    return "x".join(str(size) for size in shape) or "one number"
