"""Weights and multiply-accumulates of any network, counted."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kdsearch.kinds import IO, Cost, Model
from kdsearch.ops.cost import multiply_accumulates, parameters


def count(model: Model, io: IO) -> Cost:
    """Parameters, and the MACs of one sample; a dynamic size counts as its field's `open_size`."""
    return count_module(model.module, [io.input(name).blank() for name in model.inputs])


def count_module(module: nn.Module, inputs: Sequence[Tensor]) -> Cost:
    """Parameters (shared ones once), and the MACs of convolutions, matmuls, recurrent layers and attention for `inputs`."""
    return Cost(parameters(module), multiply_accumulates(module, inputs))
