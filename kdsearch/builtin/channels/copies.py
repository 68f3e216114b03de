"""Copies of modules whose tensors are others."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from kdsearch.ops.copies import computed


def copied(module: nn.Module, change: Callable[[str, Tensor], Tensor] = lambda _, tensor: tensor.clone()) -> nn.Module:
    """A copy of which every weight and buffer is `change(name, tensor)`; ones that are shared stay shared."""
    memo = computed(module)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            memo[id(parameter)] = nn.Parameter(change(name, parameter.detach()), parameter.requires_grad)
        for name, buffer in module.named_buffers():
            memo[id(buffer)] = change(name, buffer.detach())
    made = copy.deepcopy(module, memo)
    for part in made.modules():
        if isinstance(part, nn.RNNBase):  # its list of weights is copied beside them
            part._flat_weights = [getattr(part, name, None) for name in part._flat_weights_names]
    return made
