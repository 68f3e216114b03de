"""Weights and multiply-accumulates of an ONNX file."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

from kdsearch.kinds import Cost
from kdsearch.kit.onnx import weights_in


def cost_of_file(file: Path) -> Cost:
    """The numbers that the file's tensors of weights hold, branches' and zeros of sparse ones, too, and the MACs of one sample in
    convolutions and matrix products.

    MACs are 0 where a shape that they need cannot be told from the file. A dynamic size counts as 1.
    """
    import onnx

    model = onnx.load(str(file), load_external_data=False)
    for entry in (*model.graph.input, *model.graph.output):
        for size in entry.type.tensor_type.shape.dim:
            if size.WhichOneof("value") != "dim_value":
                size.dim_value = 1
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        shapes = _shapes(inferred.graph)
        rows = next(iter(shapes[model.graph.input[0].name]), 1)  # a file may fix its batch
        return Cost(weights_in(model), sum(_macs(node, shapes) for node in inferred.graph.node) // max(rows, 1))
    except (KeyError, ValueError, onnx.shape_inference.InferenceError):
        return Cost(weights_in(model), 0)


def _shapes(graph: Any) -> dict[str, tuple[int, ...]]:
    known = {each.name: tuple(each.dims) for each in graph.initializer}
    known |= {each.values.name: tuple(each.dims) for each in graph.sparse_initializer}
    for each in (*graph.value_info, *graph.input, *graph.output):
        sizes = each.type.tensor_type.shape.dim
        if all(size.WhichOneof("value") == "dim_value" for size in sizes):
            known[each.name] = tuple(size.dim_value for size in sizes)
    return known


def _macs(node: Any, shapes: dict[str, tuple[int, ...]]) -> int:
    """Raise KeyError where a shape is not known."""
    if node.op_type == "Conv":  # weight (out, in / groups, *kernel)
        return prod(shapes[node.output[0]]) * prod(shapes[node.input[1]][1:])
    if node.op_type == "ConvTranspose":  # weight (in, out / groups, *kernel)
        return prod(shapes[node.input[0]]) * prod(shapes[node.input[1]][1:])
    if node.op_type == "MatMul":
        return prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    if node.op_type == "Gemm":
        is_turned = any(each.name == "transA" and each.i for each in node.attribute)
        return prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if is_turned else 1]
    return 0
