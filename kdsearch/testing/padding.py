"""Fields of open length in the contracts: batches with more padding."""

from __future__ import annotations

from collections.abc import Sequence

from kdsearch.kinds import Batch, Field
from kdsearch.ops.padding import resized


def has_open(fields: Sequence[Field]) -> bool:
    return any(None in each.shape for each in fields)


def padded(batch: Batch, fields: Sequence[Field], more: int) -> Batch:
    """The batch with `more` places at the end of every open axis, filled as its field says."""
    changed = {}
    for each in fields:
        if None in each.shape and each.name in batch:
            had = batch[each.name].shape[1:]
            sizes = [got + (more if size is None else 0) for got, size in zip(had, each.shape, strict=True)]
            changed[each.name] = resized(batch[each.name], sizes, each.fill)
    return batch.having(**changed)


def as_long_as(batch: Batch, other: Batch, fields: Sequence[Field]) -> Batch:
    """The batch with every open axis filled up to the size that it has in another batch, where it is shorter."""
    changed = {}
    for each in fields:
        if None in each.shape and each.name in batch and each.name in other:
            have, want = batch[each.name].shape[1:], other[each.name].shape[1:]
            if len(have) == len(want):
                sizes = [max(pair) for pair in zip(have, want, strict=True)]
                changed[each.name] = resized(batch[each.name], sizes, each.fill)
    return batch.having(**changed)
