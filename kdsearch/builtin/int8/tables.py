"""Embeddings of tokens in 8 bits."""

from __future__ import annotations

from typing import Any

import numpy as np

from kdsearch.kit.onnx import is_plain, subgraphs


def quantize_embeddings(model: Any, per_channel: bool) -> None:
    """Tables that rows are taken from, in 8 bits: what is taken becomes float again, by a scale for each column. One that a branch
    or a loop reads, too, stays as it is, and so does one of infinities, such as a mask.

    They are most of a small text network's bytes. onnxruntime's static quantisation leaves them as they are, or takes a range of 0
    for them (1.32), so that every row reads 0: its calibration sees no weights.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    tables = {each.name: each for each in graph.initializer}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    _, *nested = subgraphs(graph)
    elsewhere = {name for inner in nested for node in inner.node for name in node.input}
    for name, table in tables.items():
        nodes = readers.get(name, [])
        if (
            table.data_type != 1
            or name in elsewhere
            or len(table.dims) != 2
            or not nodes
            or not all(_takes_rows(each, name) for each in nodes)
        ):
            continue
        values = numpy_helper.to_array(table)
        if not is_plain(values):
            continue
        largest = np.abs(values).max(0 if per_channel else None)
        scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
        whole = np.clip(np.rint(values / scale), -127, 127).astype(np.int8)
        table.CopyFrom(numpy_helper.from_array(whole, name))
        scales = f"{name}_scale"
        while scales in tables:  # of the same weight as a matrix
            scales += "_"
        graph.initializer.append(numpy_helper.from_array(scale, scales))
        for node in nodes:
            taken = f"{node.output[0]}_in_8_bits"  # `_quantized` may be what onnxruntime made of it
            made = helper.make_node("DequantizeLinear", [taken, scales], [node.output[0]], f"{node.name}_dequantize")
            made.attribute.extend([helper.make_attribute("axis", -1)] if per_channel else [])
            node.output[0] = taken
            graph.node.insert(list(graph.node).index(node) + 1, made)


def _takes_rows(node: Any, table: str) -> bool:
    axis = next((each.i for each in node.attribute if each.name == "axis"), 0)
    return node.op_type == "Gather" and node.input[0] == table and node.input[1] != table and axis == 0
