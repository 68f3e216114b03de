"""A network that trains as its quantised file will compute: weights rounded in every pass, gradients as if they were not.

Straight-through estimation (Bengio et al., 2013; Jacob et al., CVPR 2018). What is trained is the weight behind the rounded one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kdsearch.kinds import Model

LAYERS = (nn.modules.conv._ConvNd, nn.Linear, nn.Embedding)
LEVELS = 255  # of an activation in 8 bits

Round = Callable[[Tensor], Tensor]


class Rounded(nn.Module):
    """A weight as its file will store it; the gradient passes as it is."""

    def __init__(self, rounded: Round) -> None:
        super().__init__()
        self.rounded = rounded

    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            moved = self.rounded(weight) - weight
        return weight + moved


def simulated(model: Model, rounded: Round, activations: bool) -> Model:
    """A copy whose convolutions, matrices and tables of two axes or more are rounded, and in training what convolutions and
    matrices read, in 8 bits over the range of the batch.

    `torch.nn.utils.parametrize.remove_parametrizations` leaves the rounded weights behind.
    """
    made = model.copy()
    for layer in made.module.modules():
        if not isinstance(layer, LAYERS) or parametrize.is_parametrized(layer):
            continue
        parametrize.register_parametrization(layer, "weight", Rounded(rounded))
        if activations and not isinstance(layer, nn.Embedding):
            layer.register_forward_pre_hook(_read)
    return replace(made)


def _read(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    if not layer.training or not torch.is_floating_point(inputs[0]):
        return inputs
    return (in_8_bits(inputs[0]), *inputs[1:])


def in_8_bits(x: Tensor) -> Tensor:
    """x on 256 levels between its least and its largest value, 0 among them; the gradient passes."""
    with torch.no_grad():
        low, high = x.amin().clamp_max(0), x.amax().clamp_min(0)
        scale = ((high - low) / LEVELS).clamp_min(1e-12)
        zero = (-low / scale).round()
        moved = ((x / scale).round() + zero).clamp(0, LEVELS).sub(zero) * scale - x
    return x + moved


def per_channel(limit: int) -> Round:
    """Symmetric, a scale for each output channel, integers up to `limit`."""

    def rounded(weight: Tensor) -> Tensor:
        rows = weight.flatten(1)
        scale = (rows.abs().amax(1, keepdim=True) / limit).clamp_min(1e-12)
        return ((rows / scale).round().clamp(-limit, limit) * scale).view_as(weight)

    return rounded


def in_blocks(block: int, bits: int) -> Round:
    """Symmetric, a scale for each `block` of neighbours along a row."""
    limit = 2 ** (bits - 1) - 1

    def rounded(weight: Tensor) -> Tensor:
        rows = weight.flatten(1)
        lacking = -rows.shape[1] % block
        parts = nn.functional.pad(rows, (0, lacking)).view(len(rows), -1, block)
        scale = (parts.abs().amax(2, keepdim=True) / limit).clamp_min(1e-12)
        levels: Tensor = (parts / scale).round().clamp(-limit, limit) * scale
        return levels.flatten(1)[:, : rows.shape[1]].reshape_as(weight)

    return rounded
