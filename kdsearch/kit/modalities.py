"""Fields that a sample may lack: `present_<field>` (B,) is 0 in samples without it, and the field reads zeros there."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from kdsearch.kinds import Batch, Field

__all__ = ["is_present", "may_lack", "present_field", "without"]


def present_field(field: Field) -> Field:
    """The field that says which samples have `field`: for a data set's `fields`, beside it."""
    return Field(f"present_{field.name}", "present", (), "float32", field.use)


def may_lack(names: Iterable[str]) -> tuple[str, ...]:
    """Which of these fields a sample may lack: of a batch's, of what a model reads (`Model.inputs`), of a data set's inputs."""
    known = list(names)
    return tuple(name for name in known if f"present_{name}" in known)


def is_present(batch: Batch, name: str) -> Tensor:
    """(B,) bool: which samples have the field; all where the data set does not say."""
    gate = f"present_{name}"
    return batch[gate] != 0 if gate in batch else torch.ones(len(batch), dtype=torch.bool)


def without(batch: Batch, name: str, lacking: Tensor | None = None) -> Batch:
    """The batch whose samples at `lacking` (B,) bool, None = all, lack the field too, and with it its mask `<name>_mask`.

    For data sets, and for training on part of what there is, or measuring by it.

    Raises:
        KeyError: the batch has no such field, or nothing that says which samples have it.
    """
    gate, value = batch[f"present_{name}"], batch[name]
    lost = torch.ones_like(gate, dtype=torch.bool) if lacking is None else lacking.to(value.device)
    gone = {name: value, f"present_{name}": gate}
    if (mask := f"{name}_mask") in batch:
        gone[mask] = batch[mask]
    blank = {
        key: torch.where(lost.reshape(-1, *[1] * (each.ndim - 1)), torch.zeros_like(each), each)
        for key, each in gone.items()
    }
    return batch.having(**blank)
