"""Weights and multiply-accumulates of any network, counted."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kdsearch.kinds import IO, Cost, Field, Model
from kdsearch.ops.cost import multiply_accumulates, parameters
from kdsearch.ops.undisturbed import undisturbed


def count(model: Model, io: IO) -> Cost:
    """Parameters, and the MACs of one sample. A dynamic size counts as 8."""
    return count_module(model.module, [zeros(io.input(name)) for name in model.inputs])


def zeros(field: Field, n: int = 1) -> Tensor:
    """(n, *shape) zeros of the field's type; a dynamic size is 8."""
    return torch.zeros((n, *field.sizes), dtype=field.torch_dtype)


def count_module(module: nn.Module, inputs: Sequence[Tensor]) -> Cost:
    """Parameters (shared ones once), and the MACs of convolutions, matmuls, recurrent layers and attention for `inputs`."""
    try:
        macs = multiply_accumulates(module, lambda shadow: shadow(*[each.to("meta") for each in inputs]))
    except (NotImplementedError, RuntimeError):
        macs = _run_and_count(module, inputs)
    return Cost(parameters(module), macs)


def _run_and_count(module: nn.Module, inputs: Sequence[Tensor]) -> int:
    """For a network that looks at values, which the meta device has none of: a real forward, attention unfused."""
    first = next(module.parameters(), None)
    device = first.device if first is not None else torch.device("cpu")
    with undisturbed(module, train=False), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module(*[each.to(device) for each in inputs])
    return int(counter.get_total_flops()) // 2
