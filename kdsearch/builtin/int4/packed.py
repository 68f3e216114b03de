"""Matrix products whose weights stay in 4 bits: onnxruntime's MatMulNBits, which unpacks a block while it multiplies."""

from __future__ import annotations

from typing import Any

import numpy as np

from kdsearch.builtin.int4.blocks import Array, Blocks

DOMAIN = "com.microsoft"
FP32 = 1  # accuracy_level: activations stay as they are; 4 would round them to 8 bits (1.7 % error seen)
MIDDLE = 8  # the zero point of a block that names none


def pack(model: Any, name: str, blocks: Blocks) -> bool:
    """Replace in place every product with the weight, (K, N) or (N, K), whose rows (N, K) are given; False where one cannot be.

    Of MatMul its second input, of Gemm without a transposed activation; no other node of the graph may read the weight. That no
    nested graph does, and that all read the same rows, is the caller's business.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    nodes = [node for node in graph.node if name in node.input]
    n, k = blocks.q.shape
    flat = next(len(each.dims) == 2 for each in graph.initializer if each.name == name)
    if not nodes or not flat or k < blocks.block or not all(_fits(node, name) for node in nodes):
        return False
    zero = None if blocks.zero is None else blocks.zero
    parts = {f"{name}.packed": _packed(blocks.q, blocks.block, MIDDLE if zero is None else 0)}
    parts[f"{name}.scale"] = blocks.scale.astype(np.float32).ravel()
    if zero is not None:
        parts[f"{name}.zero"] = _nibbles(zero.astype(np.uint8)).ravel()
    graph.initializer.remove(next(each for each in graph.initializer if each.name == name))
    graph.initializer.extend(numpy_helper.from_array(np.ascontiguousarray(value), key) for key, value in parts.items())
    for node in nodes:
        at, called = list(graph.node).index(node), node.name or node.output[0]
        bias = node.input[2] if node.op_type == "Gemm" and len(node.input) > 2 else ""
        product = f"{node.output[0]}.product" if bias else node.output[0]
        made = [
            helper.make_node(
                "MatMulNBits", [node.input[0], *parts], [product], f"{called}.packed", domain=DOMAIN,
                K=k, N=n, bits=4, block_size=blocks.block, accuracy_level=FP32,
            )
        ]  # fmt: skip
        if bias:
            made.append(helper.make_node("Add", [product, bias], [node.output[0]], f"{called}.bias"))
        graph.node.remove(node)
        for back, each in enumerate(made):
            graph.node.insert(at + back, each)
    if all(each.domain != DOMAIN for each in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return True


def _fits(node: Any, name: str) -> bool:
    if list(node.input).index(name) != 1 or list(node.input).count(name) != 1:
        return False
    if node.op_type == "MatMul":
        return True
    given = {each.name: each for each in node.attribute}
    plain = all(given[key].f == 1.0 for key in ("alpha", "beta") if key in given)
    return node.op_type == "Gemm" and plain and not ("transA" in given and given["transA"].i)


def _packed(q: Array, block: int, add: int) -> Array:
    """(N, blocks, block / 2) uint8, two neighbours a byte, the first one low."""
    n, k = q.shape
    count = -(-k // block)
    whole = np.full((n, count * block), MIDDLE if add else 0, np.uint8)
    whole[:, :k] = (q.astype(np.int16) + add).astype(np.uint8)
    return _nibbles(whole).reshape(n, count, block // 2)


def _nibbles(values: Array) -> Array:
    """(N, M) of 0..15 -> (N, ceil(M / 2)) bytes."""
    if values.shape[1] % 2:
        values = np.pad(values, ((0, 0), (0, 1)))
    return np.asarray(values[:, ::2] | (values[:, 1::2] << 4))
