"""Channels-last networks on a CPU."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

NARROW = 16  # numbers in a register of AVX512


def channels_last(module: nn.Module) -> nn.Module:
    """The module, in place, with weights of 2-D convolutions stored channels-last, and `guarded`."""
    for tensor in itertools.chain(module.parameters(), module.buffers()):
        if tensor.ndim == 4:  # `module.to` would ask it of 3-D convolutions, too, which have no such layout
            tensor.data = tensor.data.to(memory_format=torch.channels_last)
    return guarded(module)


def guarded(module: nn.Module) -> nn.Module:
    """The module, in place, such that channels-last maps do not crash its training on a CPU; a second call changes nothing.

    The weight gradient of a 1x1 convolution with a stride and fewer than 16 inputs, of maps channels-last, writes beyond its
    buffer in oneDNN's code for AVX512 (torch 2.13) and kills the process. Such a layer gets map and weights in the default
    layout.
    """
    for layer in module.modules():
        if not isinstance(layer, nn.Conv2d) or max(layer.kernel_size) > 1 or max(layer.stride) == 1:
            continue
        if layer.in_channels < NARROW:
            for parameter in layer.parameters():
                parameter.data = _default_layout(parameter.data)
            if _feed not in layer._forward_pre_hooks.values():
                layer.register_forward_pre_hook(_feed)
    return module


def _feed(layer: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    if torch.compiler.is_exporting() or torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
        return given  # a file needs no such operators
    return tuple(_default_layout(each) if isinstance(each, Tensor) and each.is_cpu else each for each in given)


def _default_layout(tensor: Tensor) -> Tensor:
    """Of equal values, by its strides, too: `contiguous` leaves a map of one channel, or a 1x1 kernel, as it is."""
    return tensor.flatten().view(tensor.shape)
