"""Counted cost of a module."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def parameters(module: nn.Module) -> int:
    """Weights of the module, trained and frozen; one that two parts share counts once."""
    return sum(each.numel() for each in module.parameters())


def multiply_accumulates(module: nn.Module, call: Callable[[nn.Module], Any]) -> int:
    """Multiply-accumulates of the convolutions and matrix products that `call(module)` runs, in eval mode.

    `call` is handed a copy of the module on the meta device and must feed it meta tensors: nothing is computed, and fused
    attention, which the counter does not see on a CPU, is counted.
    """
    shadow = copy.deepcopy(module).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call(shadow)
    return int(counter.get_total_flops()) // 2
