"""Targets: the fields of a batch that hold what is to be learned, how they are hidden, and what splits keep in proportion."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from kdsearch.errors import PluginError
from kdsearch.kinds.data import HIDDEN, Batch, Field


def targets_of(fields: Sequence[Field]) -> tuple[Field, ...]:
    """The fields of use "target"."""
    return tuple(each for each in fields if each.use == "target" or each.kind == "label")


def is_class(fields: Sequence[Field]) -> bool:
    """Whether the target is one class index a sample."""
    return len(fields) == 1 and fields[0].shape == () and not fields[0].torch_dtype.is_floating_point


def unknown(value: Tensor) -> Tensor:
    """Elements of a target that nobody knows: HIDDEN among integers, NaN among floats; bool of its shape."""
    return value.isnan() if value.is_floating_point() else value == HIDDEN


def without_targets(batch: Batch, hidden: Tensor, fields: Sequence[Field]) -> Batch:
    """The batch whose samples at `hidden` (B,) bool show no target: integers (as int64) read HIDDEN, floats NaN.

    A field that the batch lacks is added with nothing known in it.
    """
    changed = {}
    for each in fields:
        floating = each.torch_dtype.is_floating_point
        blank = torch.tensor(torch.nan if floating else HIDDEN, dtype=each.torch_dtype if floating else torch.int64)
        if each.name in batch:
            value = batch[each.name].to(blank.dtype)
            mask = hidden.view(-1, *[1] * (value.ndim - 1))
            changed[each.name] = torch.where(mask, blank, value)
        else:
            changed[each.name] = blank.expand(len(batch), *each.sizes).clone()
    return batch.having(**changed)


def of_classes(batch: Batch, classes: Collection[int], fields: Sequence[Field]) -> tuple[Batch, Tensor]:
    """The batch that shows the targets of these classes alone, and which samples (B,) bool show one of them.

    Of class indices the others read HIDDEN; of labels one by one (kind "labels") those of other classes are not known.

    Raises:
        PluginError: a target is neither.
    """
    known = torch.tensor(sorted(classes), dtype=torch.int64, device=next(iter(batch.tensors.values())).device)
    changed, shown = {}, torch.zeros(len(batch), dtype=torch.bool, device=known.device)
    for each in fields:
        value = batch[each.name]
        if each.kind == "labels":
            mine = torch.isin(torch.arange(value.shape[-1], device=known.device), known).expand(value.shape)
            is_there = mine & (value == 1)
        elif not value.is_floating_point():
            mine = is_there = torch.isin(value, known)
        else:
            problem = f"the target '{each.name}' is no class, and a phase asks for samples of some classes"
            raise PluginError(problem, expected="a task whose `of_classes` says which samples show them")
        blank = torch.nan if value.is_floating_point() else HIDDEN
        changed[each.name] = value.masked_fill(~mine, blank)
        shown |= is_there.reshape(len(batch), -1).any(1)
    return batch.having(**changed), shown


def strata_of(batch: Batch, fields: Sequence[Field]) -> Tensor:
    """(B,) int64: the class where the target is one class index a sample, else 0; HIDDEN where no element is known."""
    if is_class(fields):
        return batch[fields[0].name].to(torch.int64)
    known = torch.zeros(len(batch), dtype=torch.bool)
    for each in fields:
        known |= ~unknown(batch[each.name]).reshape(len(batch), -1).all(1)
    return torch.where(known, 0, HIDDEN)
