"""The weights of an ONNX graph that may be stored in few bits, who reads them, and their blocks in their place.

A graph is `onnx_ir.Graph`: its values know who reads them, also in nested graphs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdsearch.builtin.int4.blocks import Array, Blocks
from kdsearch.builtin.int4.rounding import Read

CALIBRATED = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class Weight:
    """One weight to store in few bits.

    Args:
        names: its own, and those of the nodes that read it.
        shape: as the operator reads it.
        flat: as it is stored.
        axis: of `flat`, along which blocks lie: the one the operator sums over.
        reads: where it multiplies activations, all of which are alike; none where it is read in any other way too.
    """

    name: str
    names: tuple[str, ...]
    shape: tuple[int, ...]
    flat: tuple[int, ...]
    axis: int
    reads: tuple[Read, ...]

    def rows(self, graph: Any) -> Array:
        """(R, K): a block lies along a row."""
        values: Array = graph.initializers[self.name].const_value.numpy()
        last = np.moveaxis(values.reshape(self.flat), self.axis, -1)
        return last.reshape(-1, last.shape[-1])


def lift_constants(model: Any) -> None:
    """Constant nodes become initializers, so that weights are in one place."""
    from onnx_ir.passes.common import LiftConstantsToInitializersPass

    LiftConstantsToInitializersPass(size_limit=2)(model)


def weights_of(graph: Any) -> list[Weight]:
    """Weights that could be quantised in the order they are used, each once."""
    found: dict[str, tuple[tuple[int, ...], int]] = {}
    for node in graph:
        for at, flat, axis in _layouts(node):
            found.setdefault(node.inputs[at].name, (flat, axis))
    return [_weight(graph.initializers[name], flat, axis) for name, (flat, axis) in found.items()]


def _weight(value: Any, flat: tuple[int, ...], axis: int) -> Weight:
    shape = tuple(value.const_value.shape.numpy())
    reads = [
        Read(value.name, use.node, use.idx, shape)
        for use in value.uses()
        if use.node.op_type in CALIBRATED and (use.node.op_type != "MatMul" or len(shape) == 2)
        if (use.idx, flat, axis) in _layouts(use.node)
    ]
    groups = {read.node.attributes.get_int("group", 1) for read in reads}
    alike = len(reads) == len(value.uses()) and len(groups) <= 1 and not value.is_graph_output()
    nodes = dict.fromkeys(use.node.name for use in value.uses())
    return Weight(value.name, (value.name, *nodes), shape, flat, axis, tuple(reads) if alike else ())


def _layouts(node: Any) -> Iterator[tuple[int, tuple[int, ...], int]]:
    """(input, shape it is stored in, axis of the blocks) of the weights that the node reads."""

    def shape(at: int) -> tuple[int, ...]:
        value = node.inputs[at] if at < len(node.inputs) else None
        if value is None or not value.is_initializer() or value.graph is not node.graph:
            return ()
        tensor = value.const_value
        return tuple(tensor.shape.numpy()) if tensor.dtype.name == "FLOAT" and len(tensor.shape) >= 2 else ()

    kind = node.op_type
    if kind == "Conv" and (w := shape(1)):
        yield 1, (w[0], math.prod(w[1:])), 1
    elif kind == "ConvTranspose" and (w := shape(1)):
        yield 1, (w[0], math.prod(w[1:])), 0
    elif kind == "Gemm" and (w := shape(1)):
        yield 1, w, 1 if node.attributes.get_int("transB", 0) else 0
    elif kind == "MatMul":
        if w := shape(0):
            yield 0, w, len(w) - 1
        if w := shape(1):
            yield 1, w, len(w) - 2
    elif kind == "Gather" and (w := shape(0)):
        yield 0, w, len(w) - 1
    elif kind in ("LSTM", "GRU", "RNN"):
        for at in (1, 2):
            if w := shape(at):
                yield at, (w[0] * w[1], w[2]), 1


def bias_of(weight: Weight, rows: int) -> tuple[Any, float] | None:
    """The initializer that only this layer adds to its outputs, one number each, and what a unit of output is in it."""
    if len(weight.reads) != 1:
        return None
    node, at, gain = weight.reads[0].node, weight.reads[0].at, 1.0
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if node.op_type == "Gemm":
        beta = node.attributes.get_float("beta", 1.0)
        gain = node.attributes.get_float("alpha", 1.0) / (beta or math.inf)
    elif node.op_type == "MatMul" and at == 1 and _readers(node.outputs[0]) == 1:
        sums = [use for use in node.outputs[0].uses() if use.node.op_type == "Add"]
        value = sums[0].node.inputs[1 - sums[0].idx] if sums else None
    if value is None or not value.is_initializer() or _readers(value) != 1 or not gain:
        return None
    tensor = value.const_value
    if tensor.dtype.name != "FLOAT" or tuple(tensor.shape[-1:]) != (rows,) or tensor.size != rows:
        return None
    return value, gain


def _readers(value: Any) -> int:
    return len(value.uses()) + int(value.is_graph_output())


def stored(graph: Any, weight: Weight, blocks: Blocks, bits: int) -> list[Any]:
    """Integers in the weight's place. Returns DequantizeLinear and Reshape, whose output has its name, to begin with."""
    import onnx_ir as ir

    others = [size for axis, size in enumerate(weight.flat) if axis != weight.axis]

    def back(array: Array) -> Array:
        return np.ascontiguousarray(np.moveaxis(array.reshape(*others, -1), -1, weight.axis))

    name, whole = weight.name, graph.initializers.pop(weight.name)
    parts = {key: back(value) for key, value in _parts(name, blocks, bits).items()}
    inputs = add_initializers(graph, parts)
    unpack = ir.node(
        "DequantizeLinear",
        inputs,
        {"axis": weight.axis, "block_size": blocks.block},
        outputs=[ir.Value(name=free_name(graph, f"{name}.flat"))],
        name=free_name(graph, f"{name}.dequantize"),
    )
    (shape,) = add_initializers(graph, {f"{name}.shape": np.asarray(weight.shape, np.int64)})
    given = ir.Value(name=name, type=whole.type, shape=whole.shape)
    reshape = ir.node("Reshape", [unpack.outputs[0], shape], outputs=[given], name=free_name(graph, f"{name}.reshape"))
    whole.replace_all_uses_with(given, replace_graph_outputs=True)
    return [unpack, reshape]


def add_initializers(graph: Any, values: dict[str, Array]) -> list[Any]:
    """The values in the graph, by these names, or such as are free."""
    import onnx_ir as ir

    made = []
    for wanted, value in values.items():
        name = free_name(graph, wanted)
        tensor = ir.tensor(value, name=name)
        kind = ir.TensorType(tensor.dtype)
        made.append(ir.Value(name=name, shape=ir.Shape(value.shape), type=kind, const_value=tensor))
        graph.register_initializer(made[-1])
    return made


def free_name(graph: Any, wanted: str) -> str:
    """The name, with an underscore for each time that it is taken."""
    taken = {name for node in graph for name in (node.name, *(value.name for value in node.outputs))}
    taken |= {value.name for value in graph.inputs}
    while wanted in taken or wanted in graph.initializers:
        wanted += "_"
    return wanted


def _parts(name: str, blocks: Blocks, bits: int) -> dict[str, Array]:
    import ml_dtypes

    signed, unsigned = (ml_dtypes.int4, ml_dtypes.uint4) if bits == 4 else (np.int8, np.uint8)
    dtype = signed if blocks.zero is None else unsigned
    parts = {f"{name}.int{bits}": blocks.q.astype(dtype), f"{name}.scale": blocks.scale.astype(np.float32)}
    return parts if blocks.zero is None else {**parts, f"{name}.zero": blocks.zero.astype(dtype)}
