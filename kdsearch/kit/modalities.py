"""Fields that a sample may lack: `present_<field>` (B,) is 0 in samples without it, and the field reads zeros there."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from kdsearch.kinds import Batch, Field

__all__ = ["is_present", "present_field", "without"]


def present_field(field: Field) -> Field:
    """The field that says which samples have `field`: for a data set's `fields`, beside it."""
    return Field(f"present_{field.name}", "present", (), "float32")


def is_present(batch: Batch, name: str) -> Tensor:
    """(B,) bool: which samples have the field; all where the data set does not say."""
    gate = f"present_{name}"
    return batch[gate] != 0 if gate in batch else torch.ones(len(batch), dtype=torch.bool)


def without(batch: Batch, name: str, lacking: Tensor) -> Batch:
    """The batch whose samples at `lacking` (B,) bool lack the field too: for data sets, and for training on part of what there is.

    Raises:
        KeyError: the batch has no such field, or nothing that says which samples have it.
    """
    value, gate = batch[name], batch[f"present_{name}"]
    lost = lacking.to(value.device)
    blank = torch.where(lost.reshape(-1, *[1] * (value.ndim - 1)), torch.zeros_like(value), value)
    gone = torch.where(lost, torch.zeros_like(gate), gate)
    return replace(batch, tensors={**batch.tensors, name: blank, f"present_{name}": gone})
