"""One key for all ONNX files that compute with the same operators on the same shapes, whatever their weights and names."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from kdsearch.deploy.files import read_onnx, subgraphs

# operator -> inputs whose values, and not only their shapes, decide how much is computed
SHAPING = {
    "BlackmanWindow": (0,),
    "CenterCropPad": (1,),
    "Compress": (1,),
    "ConstantOfShape": (0,),
    "DFT": (1,),
    "Expand": (1,),
    "HammingWindow": (0,),
    "HannWindow": (0,),
    "If": (0,),
    "Loop": (0, 1),
    "NonMaxSuppression": (2, 3, 4),
    "OneHot": (1,),
    "Pad": (1, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "STFT": (1, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Tile": (1, 2),
    "TopK": (1,),
    "Upsample": (1,),
}
BY_SHAPE = {"Shape", "Size"}  # what they answer does not depend on the values that they read
FEW = 64  # elements of what can be scales, sizes or a condition: more are weights, whatever reads them


def graph_key(file: Path) -> str:
    """sha256 (hex) of the graph in `file`: operators, attributes, wiring, shapes and types of inputs and weights.

    Independent of weight values, of names, of metadata and of the order in which independent nodes are listed. Values of
    integer tensors that are shapes or axes (int64) count, and those of few elements from which scales, sizes, steps and
    conditions are computed: they decide what is computed.
    """
    model = read_onnx(file)
    shaping = _shaping(model.graph)
    opsets = sorted((each.domain, each.version) for each in model.opset_import)
    functions = sorted(each.SerializeToString(deterministic=True).hex() for each in model.functions)
    return _digest("model", opsets, functions, _graph(model.graph, {}, shaping))


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _shaping(graph: Any) -> set[str]:
    """Names of the values that decide how much is computed, here and in nested graphs, and of all that they are computed from."""
    nodes = [node for each in subgraphs(graph) for node in each.node]
    makers = {name: node for node in nodes for name in node.output}
    inner = {id(node): _inner(node) for node in nodes}
    makers |= {each.name: node for node in nodes for body in inner[id(node)] for each in body.input}
    left = [name for node in nodes for at, name in enumerate(node.input) if at in SHAPING.get(node.op_type, ())]
    found = {""}
    while left:
        name = left.pop()
        node = makers.get(name)
        if name not in found and node is not None and node.op_type not in BY_SHAPE:
            left += [*node.input, *(each.name for body in inner[id(node)] for each in body.output)]
        found.add(name)
    return found


def _inner(node: Any) -> list[Any]:
    """The graphs that the node itself holds."""
    return [each for given in node.attribute for each in ([given.g] if given.HasField("g") else given.graphs)]


def _graph(graph: Any, outer: dict[str, str], shaping: set[str]) -> str:
    """Merkle hash: a value is its producer's operator, attributes and inputs.

    Args:
        outer: values of enclosing graphs. shaping: names of values that count.
    """
    values = {**outer, "": ""}
    for tensor in graph.initializer:
        values[tensor.name] = _tensor(tensor, tensor.name in shaping)
    for sparse in graph.sparse_initializer:
        values[sparse.values.name] = _digest("sparse", list(sparse.dims), sparse.values.data_type)
    for index, each in enumerate(graph.input):
        if each.name not in values or each.name in outer:
            values[each.name] = _digest("input", index, *_type(each.type))
    nodes = []
    for node in graph.node:
        counts = any(name in shaping for name in node.output)
        attributes = sorted((each.name, _attribute(each, values, shaping, counts)) for each in node.attribute)
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


def _tensor(tensor: Any, counts: bool) -> str:
    import onnx

    shown: list[Any] = ["tensor", tensor.data_type, list(tensor.dims)]
    if tensor.data_type == onnx.TensorProto.INT64 or (counts and math.prod(tensor.dims) <= FEW):
        shown.append(onnx.numpy_helper.to_array(tensor).tolist())
    return _digest(*shown)


def _attribute(attribute: Any, values: dict[str, str], shaping: set[str], counts: bool) -> Any:
    import onnx

    if attribute.type == onnx.AttributeProto.TENSOR:
        return _tensor(attribute.t, counts)
    if attribute.type == onnx.AttributeProto.GRAPH:
        return _graph(attribute.g, values, shaping)
    if attribute.type == onnx.AttributeProto.GRAPHS:
        return [_graph(each, values, shaping) for each in attribute.graphs]
    value = onnx.helper.get_attribute_value(attribute)
    plain = [each.hex() if isinstance(each, bytes) else each for each in (value if _many(value) else [value])]
    return [attribute.type, [each if isinstance(each, str | int | float) else str(each) for each in plain]]


def _many(value: Any) -> bool:
    return not isinstance(value, bytes | str | int | float) and hasattr(value, "__iter__")
