"""At which width a file really stores the weights of its fp32 graph."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

from kdsearch.deploy.files import read_onnx, size_bytes, subgraphs

__all__ = ["is_quantised", "size_bytes", "weight_share", "zipped_bytes"]

WIDTHS = (4, 8, 16, 32)
QUANTIZERS = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
# contrib operators whose input 1 is a packed UINT8 weight; elements = K * N, width = `bits` (4 where they have no such attribute)
PACKED = {"MatMulNBits", "MatMulBnb4"}
# inputs of integer operators that are scales and zero points, by position
SIDE_INPUTS = {
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "QGemm": (1, 2, 4, 5, 7, 8),
    "ConvInteger": (2, 3),
    "MatMulInteger": (2, 3),
    "DynamicQuantizeLSTM": (8, 9, 10, 11),
    "DynamicQuantizeMatMul": (2, 3),
    "MatMulIntegerToFloat": (2, 3, 4, 5),
}


def weight_share(file: Path, fp32_file: Path) -> dict[str, float]:
    """Width in bits ("4", "8", "16", "32") -> share of the fp32 graph's weight elements that `file` stores at that width.

    Weights are all floating-point tensors of the fp32 graph with more than one element: kernels, biases, folded batch norms,
    embeddings. Scales and zero points are no weights: they count in the file's size only. What `file` stores in no narrower
    form counts as 32 (integer biases too), so the shares sum to 1.
    """
    total = sum(_stored(read_onnx(fp32_file)).values())
    found = _stored(read_onnx(file))
    narrow = {width: found[width] for width in WIDTHS[:-1]}
    whole = max(total, sum(narrow.values()), 1)  # a rewrite that duplicates weights cannot exceed them
    share = {str(width): narrow[width] / whole for width in WIDTHS[:-1]}
    return {**share, "32": max(0.0, 1.0 - math.fsum(share.values()))}


def is_quantised(model: Any) -> bool:
    """Whether any operator of the model makes, or takes, numbers of 8 bits or fewer that stand for others."""
    known = {*QUANTIZERS, *PACKED, *SIDE_INPUTS}
    return any(node.op_type in known for graph in subgraphs(model.graph) for node in graph.node)


def zipped_bytes(file: Path) -> int:
    """The file's size as a zip archive holds it: what zeros among the weights save when it is sent or stored."""
    import zlib

    return len(zlib.compress(file.read_bytes(), 6))


def _stored(model: Any) -> Counter[int]:
    """Width -> number of weight elements in the file."""
    counts: Counter[int] = Counter()
    for graph in subgraphs(model.graph):
        tensors = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
                tensors[node.output[0]] = node.attribute[0].t
        side: set[str] = set()
        for node in graph.node:
            if node.op_type in QUANTIZERS:
                side.update(node.input[1:])
            elif node.op_type in PACKED:
                side.update(node.input[1:])
                counts[_attribute(node, "bits", 4)] += _attribute(node, "K", 0) * _attribute(node, "N", 0)
            elif node.op_type in SIDE_INPUTS:
                side.update(node.input[at] for at in SIDE_INPUTS[node.op_type] if at < len(node.input))
        for name, tensor in tensors.items():
            size, width = math.prod(tensor.dims), _width(tensor.data_type)
            if name not in side and size > 1 and width:
                counts[width] += size
    return counts


def _attribute(node: Any, name: str, default: int) -> int:
    return next((int(each.i) for each in node.attribute if each.name == name), default)


def _width(data_type: int) -> int:
    """Bits of a type that holds weights; 0 for shapes, axes, masks and texts."""
    from onnx import TensorProto as T

    four, eight, sixteen = (T.INT4, T.UINT4), (T.INT8, T.UINT8), (T.FLOAT16, T.BFLOAT16)
    whole = (T.FLOAT, T.DOUBLE, T.INT32)
    groups = {4: four, 8: eight, 16: sixteen, 32: whole}
    return next((width for width, types in groups.items() if data_type in types), 0)
