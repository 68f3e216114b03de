"""Weights and multiply-accumulates of any network, counted."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdsearch.kinds import IO, Cost, Field, Model
from kdsearch.ops.cost import multiply_accumulates, parameters


def count(model: Model, io: IO) -> Cost:
    """Parameters, and the MACs of one sample. A dynamic size counts as 8."""
    return count_module(model.module, [zeros(io.input(name)) for name in model.inputs])


def zeros(field: Field, n: int = 1) -> Tensor:
    """(n, *shape) zeros of the field's type; a dynamic size is 8."""
    return torch.zeros((n, *field.sizes), dtype=field.torch_dtype)


def count_module(module: nn.Module, inputs: Sequence[Tensor]) -> Cost:
    """Parameters (shared ones once), and the MACs of convolutions, matmuls, recurrent layers and attention for `inputs`."""
    return Cost(parameters(module), multiply_accumulates(module, inputs))
