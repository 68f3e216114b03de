"""Weights and multiply-accumulates of any network, counted."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kdsearch.kinds import IO, Cost, Field, Model


def count(model: Model, io: IO) -> Cost:
    """Parameters, and the MACs of one sample. A dynamic size counts as 8."""
    fields = [io.input(name) for name in model.inputs]
    return count_module(model.module, [zeros(each) for each in fields])


def zeros(field: Field, n: int = 1) -> Tensor:
    """(n, *shape) zeros of the field's type; a dynamic size is 8."""
    return torch.zeros((n, *(size or 8 for size in field.shape)), dtype=field.torch_dtype)


def count_module(module: nn.Module, inputs: Sequence[Tensor]) -> Cost:
    """Parameters (shared ones once), and the MACs of convolutions, matmuls and attention in one eval-mode forward of `inputs`.

    Attention and recurrent layers run unfused while they are counted: torch's counter does not see into fused CPU kernels
    (ViT-tiny: 1.075 instead of 1.254 G).
    """
    first = next(module.parameters(), None)
    device = first.device if first is not None else torch.device("cpu")
    was_training = {each: each.training for each in module.modules()}
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        module.eval()
        with (
            torch.no_grad(),
            sdpa_kernel(SDPBackend.MATH),
            torch.backends.mkldnn.flags(enabled=False),
            FlopCounterMode(display=False) as counter,
        ):
            module(*[each.to(device) for each in inputs])
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for each, training in was_training.items():
            each.training = training
    params = sum(each.numel() for each in module.parameters())
    return Cost(params, counter.get_total_flops() // 2)
