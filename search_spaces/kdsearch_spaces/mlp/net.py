"""A multilayer perceptron with optional norms and shortcuts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Activation = Literal["relu", "gelu", "silu"]
Norm = Literal["none", "batch", "layer"]

ACTIVATIONS: dict[Activation, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}
NORMS: dict[Norm, type[nn.Module]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


class Layer(nn.Module):
    """dropout(activation(norm(W x))), plus x where `is_residual`; (B, D_in) -> (B, D_out). W has a bias where there is no norm."""

    def __init__(
        self, d_in: int, d_out: int, activation: Activation, norm: Norm, dropout: float, is_residual: bool
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(d_in, d_out, bias=norm == "none")
        self.norm = nn.Identity() if norm == "none" else NORMS[norm](d_out)
        self.activation = ACTIVATIONS[activation]()
        self.dropout = nn.Dropout(dropout)
        self.is_residual = is_residual
        nn.init.kaiming_normal_(self.linear.weight, nonlinearity="relu")
        if self.linear.bias is not None:
            nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.dropout(self.activation(self.norm(self.linear(x))))
        return x + h if self.is_residual else h


class Join(nn.Module):
    """Tensors (B, ...) -> (B, D): floats flattened, integers as vectors of their own that are learned, one after the other.

    Args:
        values: place of an input of integers -> how many values it has.
        width: of the vector that stands for an integer.
        flags: places of inputs of true and false. numbers: places of inputs (B,), one number a sample.
    """

    def __init__(
        self,
        values: Mapping[int, int] | None = None,
        width: int = 8,
        flags: Collection[int] = (),
        numbers: Collection[int] = (),
    ) -> None:
        super().__init__()
        self.flags, self.numbers = frozenset(flags), frozenset(numbers)
        self.embeddings = nn.ModuleDict({str(at): nn.Embedding(n, width) for at, n in (values or {}).items()})
        for each in self.embeddings.values():
            nn.init.normal_(each.weight, std=width**-0.5)  # type: ignore[arg-type]

    def forward(self, *inputs: Tensor) -> Tensor:
        flat = [self._vector(at, each) for at, each in enumerate(inputs)]
        return flat[0] if len(flat) == 1 else torch.cat(flat, 1)

    def _vector(self, at: int, x: Tensor) -> Tensor:
        """(B, D). What `x` is was said when this was made: a tracer sees no types."""
        if str(at) in self.embeddings:
            x = self.embeddings[str(at)](x)
            return x if at in self.numbers else x.flatten(1)
        x = x.float() if at in self.flags else x
        return x.unsqueeze(1) if at in self.numbers else x.flatten(1)


class Mlp(nn.Module):
    """Any number of inputs (B, ...), joined to `d_in` values -> logits (B, K)."""

    def __init__(
        self,
        d_in: int,
        widths: Sequence[int],
        activation: Activation,
        norm: Norm,
        dropout: float,
        residual: bool,
        n_outputs: int,
        join: Join | None = None,
    ) -> None:
        super().__init__()
        self.join = join or Join()
        layers = []
        for index, width in enumerate(widths):
            has_shortcut = residual and index > 0 and width == d_in
            layers.append(Layer(d_in, width, activation, norm, dropout, has_shortcut))
            d_in = width
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Linear(d_in, n_outputs)

    def forward(self, *inputs: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.layers(self.join(*inputs)))
        return logits
