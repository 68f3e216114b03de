"""A network that trains as its quantised file will compute: weights rounded in every pass, gradients as if they were not.

Straight-through estimation (Bengio et al., 2013; Jacob et al., CVPR 2018). What is trained is the weight behind the rounded one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kdsearch.kinds import Model

LAYERS = (nn.modules.conv._ConvNd, nn.Linear, nn.Embedding)
# Matrices of torch's attention, which has no layers for them.
ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
RECURRENT = re.compile(r"weight_[ih]h(_l\d+)?(_reverse)?$")  # what LSTM, GRU, RNN and their cells multiply by
LEVELS = 255  # of an activation in 8 bits

Round = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Layer:
    """A weight of a layer, by the layer's path.

    names: of the weight in the layer; both directions of a recurrent one share a tensor of the file.
    """

    path: str
    module: nn.Module
    names: tuple[str, ...] = ("weight",)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, all that is beside), as the file stores it."""
        found = [getattr(self.module, each).flatten(1).shape for each in self.names]
        return sum(rows for rows, _ in found), found[0][1]

    @property
    def operator(self) -> str:
        """What one operator of the file computes: a layer, of a stack of recurrent ones each of them."""
        place = self.names[0].partition("_l")[2]
        return f"{self.path}.{place}" if isinstance(self.module, nn.RNNBase) else self.path

    @property
    def is_matrix(self) -> bool:
        return isinstance(self.module, (nn.Linear, nn.RNNCellBase)) or self.names[0] in ATTENTION

    @property
    def is_table(self) -> bool:
        return isinstance(self.module, nn.Embedding)

    @property
    def is_transposed(self) -> bool:
        """Whether its outputs are the second axis of its weight."""
        return isinstance(self.module, nn.modules.conv._ConvTransposeNd)


class Rounded(nn.Module):
    """A weight as its file will store it; the gradient passes as it is."""

    def __init__(self, rounded: Round) -> None:
        super().__init__()
        self.rounded = rounded

    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            moved = self.rounded(weight) - weight
        return weight + moved


def simulated(model: Model, how: Callable[[Sequence[Layer]], Sequence[Round | None]], activations: bool) -> Model:
    """A copy whose convolutions, matrices (those of torch's attention and of recurrent layers, too) and tables are rounded, and in
    training what rounded convolutions and matrices read, in 8 bits over the range of the batch. The model itself where nothing is
    rounded.

    `torch.nn.utils.parametrize.remove_parametrizations` leaves the rounded weights behind.

    Args:
        how: of every layer, in the order that the network declares them in; None = it stays as it is.
    """
    made = model.copy()
    layers = [each for path, part in made.module.named_modules() for each in _layers(path, part)]
    rounding = [(layer, found) for layer, found in zip(layers, how(layers), strict=True) if found is not None]
    for layer, rounded in rounding:
        for name in layer.names:
            parametrize.register_parametrization(layer.module, name, Rounded(rounded))
    if activations:
        for part in dict.fromkeys(layer.module for layer, _ in rounding if not layer.is_table):
            part.register_forward_pre_hook(_read)
    return replace(made) if rounding else model


def _layers(path: str, part: nn.Module) -> Iterator[Layer]:
    own = [name for name, _ in part.named_parameters(recurse=False)]
    is_recurrent = isinstance(part, (nn.RNNBase, nn.RNNCellBase))
    for name in own:
        if (name == "weight" and isinstance(part, LAYERS)) or name in ATTENTION:
            yield Layer(path, part, (name,))
        elif is_recurrent and RECURRENT.match(name) and not name.endswith("_reverse"):
            yield Layer(path, part, tuple(each for each in (name, f"{name}_reverse") if each in own))


def _read(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Attention reads three tensors, often one of them thrice."""
    read = [each for each in inputs[:3] if isinstance(each, Tensor) and torch.is_floating_point(each)]
    if not layer.training:
        return inputs
    rounded = {id(each): in_8_bits(each) for each in read}
    return (*(rounded.get(id(each), each) for each in inputs[:3]), *inputs[3:])


def in_8_bits(x: Tensor) -> Tensor:
    """x on 256 levels between its least and its largest value, 0 among them; the gradient passes."""
    with torch.no_grad():
        low, high = x.amin().clamp_max(0), x.amax().clamp_min(0)
        scale = ((high - low) / LEVELS).clamp_min(1e-12)
        zero = (-low / scale).round()
        moved = ((x / scale).round() + zero).clamp(0, LEVELS).sub(zero) * scale - x
    return x + moved


def to_limit(limit: int, axis: int | None) -> Round:
    """Symmetric, integers up to `limit`; a scale for each place along `axis`, None = one for all."""

    def rounded(weight: Tensor) -> Tensor:
        others = [each for each in range(weight.dim()) if each != axis]
        scale = (weight.abs().amax(others, keepdim=True) / limit).clamp_min(1e-12)
        return (weight / scale).round().clamp(-limit, limit) * scale

    return rounded


def in_blocks(block: int, bits: int, symmetric: bool = True, axis: int = 1) -> Round:
    """A scale for each `block` of neighbours along `axis` of (rows, all that is beside), and a zero point unless symmetric."""
    limit = 2 ** (bits - 1) - 1 if symmetric else 2**bits - 1

    def rounded(weight: Tensor) -> Tensor:
        rows = weight.flatten(1).movedim(axis, -1)
        lacking = -rows.shape[1] % block
        parts = nn.functional.pad(rows, (0, lacking)).reshape(len(rows), -1, block)
        if symmetric:
            scale = (parts.abs().amax(2, keepdim=True) / limit).clamp_min(1e-12)
            levels: Tensor = (parts / scale).round().clamp(-limit, limit) * scale
        else:
            low, high = parts.amin(2, keepdim=True).clamp_max(0), parts.amax(2, keepdim=True).clamp_min(0)
            scale = ((high - low) / limit).clamp_min(1e-12)
            zero = (-low / scale).round()
            levels = ((parts / scale).round() + zero).clamp(0, limit).sub(zero) * scale
        return levels.flatten(1)[:, : rows.shape[1]].movedim(-1, axis).reshape_as(weight)

    return rounded
