"""Matrix products whose weights stay in 4 bits: onnxruntime's MatMulNBits, which unpacks a block while it multiplies."""

from __future__ import annotations

from typing import Any

import numpy as np

from kdsearch.builtin.int4.blocks import Array, Blocks
from kdsearch.builtin.int4.graph import Weight, add_initializers, free_name
from kdsearch.builtin.int4.rounding import Read

DOMAIN = "com.microsoft"
FP32 = 1  # accuracy_level: activations stay as they are; 4 would round them to 8 bits (1.7 % error seen)
MIDDLE = 8  # the zero point of a block that names none


def pack(model: Any, weight: Weight, blocks: Blocks) -> bool:
    """Replace in place every product with the weight, (K, N) or (N, K), whose rows (N, K) are given; False where one cannot be.

    Of MatMul its second input, of Gemm without a transposed activation; nothing else reads the weight.
    """
    import onnx_ir as ir

    graph, name = model.graph, weight.name
    n, k = blocks.q.shape
    if len(weight.shape) != 2 or k < blocks.block or not all(_fits(read) for read in weight.reads):
        return False
    parts = {
        f"{name}.packed": _packed(blocks.q, blocks.block, MIDDLE if blocks.zero is None else 0),
        f"{name}.scale": blocks.scale.astype(np.float32).ravel(),
    }
    if blocks.zero is not None:
        parts[f"{name}.zero"] = _nibbles(blocks.zero.astype(np.uint8)).ravel()
    inputs = add_initializers(graph, {key: np.ascontiguousarray(value) for key, value in parts.items()})
    for node in (read.node for read in weight.reads):
        called, answer = node.name or node.outputs[0].name, node.outputs[0]
        bias = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None
        attributes = {"K": k, "N": n, "bits": 4, "block_size": blocks.block, "accuracy_level": FP32}
        product = ir.Value(name=free_name(graph, f"{answer.name}.product") if bias is not None else answer.name)
        made = [
            ir.node(
                "MatMulNBits", [node.inputs[0], *inputs], attributes, domain=DOMAIN,
                outputs=[product], name=free_name(graph, f"{called}.packed"),
            )
        ]  # fmt: skip
        if bias is not None:
            called = free_name(graph, f"{called}.bias")
            made.append(ir.node("Add", [product, bias], outputs=[ir.Value(name=answer.name)], name=called))
        ir.convenience.replace_nodes_and_values(graph, node, [node], made, [answer], [made[-1].outputs[0]])
    del graph.initializers[name]
    model.opset_imports.setdefault(DOMAIN, 1)
    return True


def _fits(read: Read) -> bool:
    node, given = read.node, read.node.attributes
    if read.at != 1:
        return False
    if node.op_type == "MatMul":
        return True
    plain = given.get_float("alpha", 1.0) == 1.0 and given.get_float("beta", 1.0) == 1.0
    return node.op_type == "Gemm" and plain and not given.get_int("transA", 0)


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
