"""One key for all ONNX files that compute with the same operators on the same shapes, whatever their weights and names."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from kdsearch.deploy.files import read_onnx


def graph_key(file: Path) -> str:
    """sha256 (hex) of the graph in `file`: operators, attributes, wiring, shapes and types of inputs and weights.

    Independent of weight values, of names, of metadata and of the order in which independent nodes are listed. Values of
    integer tensors that are shapes or axes (int64) count: they decide what is computed.
    """
    model = read_onnx(file)
    opsets = sorted((each.domain, each.version) for each in model.opset_import)
    functions = sorted(each.SerializeToString(deterministic=True).hex() for each in model.functions)
    return _digest("model", opsets, functions, _graph(model.graph, {}))


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _graph(graph: Any, outer: dict[str, str]) -> str:
    """Merkle hash: a value is its producer's operator, attributes and inputs. `outer`: values of enclosing graphs."""
    values = {**outer, "": ""}
    for tensor in graph.initializer:
        values[tensor.name] = _tensor(tensor)
    for sparse in graph.sparse_initializer:
        values[sparse.values.name] = _digest("sparse", list(sparse.dims), sparse.values.data_type)
    for index, each in enumerate(graph.input):
        if each.name not in values or each.name in outer:
            values[each.name] = _digest("input", index, *_type(each.type))
    nodes = []
    for node in graph.node:
        attributes = sorted((each.name, _attribute(each, values)) for each in node.attribute)
        inputs = [values[name] for name in node.input]
        made = _digest("node", node.domain, node.op_type, attributes, inputs, len(node.output))
        nodes.append(made)
        values.update({name: _digest(made, index) for index, name in enumerate(node.output) if name})
    # the nodes' hashes too: equal sub-expressions computed twice are not one computed once
    return _digest("graph", sorted(nodes), [values[each.name] for each in graph.output])


def _type(proto: Any) -> tuple[Any, ...]:
    kind = proto.WhichOneof("value")
    if kind != "tensor_type":
        return (kind,)
    tensor = proto.tensor_type
    dims = [each.dim_value if each.HasField("dim_value") else None for each in tensor.shape.dim]
    return (tensor.elem_type, dims)


def _tensor(tensor: Any) -> str:
    import onnx

    shown: list[Any] = ["tensor", tensor.data_type, list(tensor.dims)]
    if tensor.data_type == onnx.TensorProto.INT64:
        shown.append(onnx.numpy_helper.to_array(tensor).tolist())
    return _digest(*shown)


def _attribute(attribute: Any, values: dict[str, str]) -> Any:
    import onnx

    if attribute.type == onnx.AttributeProto.TENSOR:
        return _tensor(attribute.t)
    if attribute.type == onnx.AttributeProto.GRAPH:
        return _graph(attribute.g, values)
    if attribute.type == onnx.AttributeProto.GRAPHS:
        return [_graph(each, values) for each in attribute.graphs]
    value = onnx.helper.get_attribute_value(attribute)
    plain = [each.hex() if isinstance(each, bytes) else each for each in (value if _many(value) else [value])]
    return [attribute.type, [each if isinstance(each, str | int | float) else str(each) for each in plain]]


def _many(value: Any) -> bool:
    return not isinstance(value, bytes | str | int | float) and hasattr(value, "__iter__")
