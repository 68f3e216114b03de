"""Units of recurrent layers: one unit is a row of each gate, a column of what reads it, in every layer and direction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from kdsearch.builtin.channels.axes import Axis, Labels

Axes = tuple[Axis, ...]


class Tracer(Protocol):
    labels: Labels

    def axes(self, tensor: Tensor) -> Axes: ...
    def answer(self, tensor: Tensor, axes: Axes) -> Tensor: ...
    def product(self, axes: Any, times: int) -> None: ...


def follow_recurrent(tracer: Tracer, layer: nn.LSTM | nn.GRU | nn.RNN) -> Callable[..., Any]:
    """A forward of the layer that computes nothing. All its layers and directions have one hidden size: one set of units."""

    def forward(x: Tensor | PackedSequence, state: Any = None) -> Any:
        labels, data = tracer.labels, x.data if isinstance(x, PackedSequence) else x
        directions = 2 if layer.bidirectional else 1
        read, unit = tracer.axes(data)[-1], Axis(1)
        calls = data.numel() // data.shape[-1]  # places times samples
        for at in range(layer.num_layers):
            for end in ("", "_reverse")[:directions]:
                own = {
                    name: tracer.axes(weight)
                    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
                    if isinstance(weight := getattr(layer, f"{name}_l{at}{end}", None), Tensor)
                }
                labels.join(own["weight_ih"][1], read, "it meets an axis of fixed size")
                parts = [
                    labels.split(axes[0], _gates(layer), "gates") for name, axes in own.items() if name != "weight_hr"
                ]
                if "weight_hr" in own:
                    for axis in own["weight_hr"]:
                        labels.freeze(axis, "the layer projects its state")
                for gates, units in parts:
                    labels.freeze(gates, "they are gates")
                    if unit.size == 1:
                        unit = units
                    labels.join(unit, units, "units")
                if "weight_hr" in own:
                    labels.freeze(unit, "the layer projects its state")
                    labels.freeze(own["weight_hh"][1], "the layer projects its state")
                else:
                    labels.join(unit, own["weight_hh"][1], "units")
                for name in ("weight_ih", "weight_hh"):
                    tracer.product(own[name], calls)
            told = own["weight_hr"][0] if "weight_hr" in own else unit
            read = labels.concatenated([told] * directions)
        for each in state if isinstance(state, tuple) else [state]:
            if isinstance(each, Tensor):
                labels.join(tracer.axes(each)[-1], unit if each.shape[-1] == unit.size else told, "units")
        out = tracer.answer(data.new_empty((*data.shape[:-1], read.size)), (*tracer.axes(data)[:-1], read))
        n = 1 if data.dim() < 3 else data.shape[0 if layer.batch_first else 1]
        if isinstance(x, PackedSequence):
            n = int(x.batch_sizes[0])
            packed = PackedSequence(out, x.batch_sizes, x.sorted_indices, x.unsorted_indices)
        rows = (
            Axis(layer.num_layers * directions),
            *([Axis(n)] if data.dim() > 2 or isinstance(x, PackedSequence) else []),
        )
        last = [
            tracer.answer(data.new_empty((*(each.size for each in rows), axis.size)), (*rows, axis))
            for axis in ((told, unit) if isinstance(layer, nn.LSTM) else (told,))
        ]
        return packed if isinstance(x, PackedSequence) else out, tuple(last) if isinstance(layer, nn.LSTM) else last[0]

    return forward


def _gates(layer: nn.Module) -> list[int]:
    gates = 4 if isinstance(layer, nn.LSTM) else 3 if isinstance(layer, nn.GRU) else 1
    return [gates, layer.hidden_size]  # type: ignore[list-item]
