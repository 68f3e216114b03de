"""Weights and multiply-accumulates of any network, counted."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kdsearch.kinds import IO, Cost, Model
from kdsearch.kinds.forward import probed
from kdsearch.ops.cost import multiply_accumulates, parameters


def count(model: Model, io: IO) -> Cost:
    """Parameters, and the MACs of one sample; a dynamic size counts as its field's `open_size`."""
    fields = [io.input(name) for name in model.inputs]
    return probed(fields, 1, lambda given: count_module(model.module, given))


def count_module(module: nn.Module, inputs: Sequence[Tensor]) -> Cost:
    """Parameters (shared ones once), and the MACs of convolutions, matmuls, recurrent layers and attention for `inputs`."""
    return Cost(parameters(module), multiply_accumulates(module, inputs))
