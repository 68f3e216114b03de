"""A network before and after onnxruntime's quantisers: as they take it, and as what they made of it ships."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kdsearch.builtin.int8.tables import quantize_embeddings
from kdsearch.errors import RefusedError
from kdsearch.kit.onnx import anonymous, is_quantised, raise_opset, read_onnx, save_onnx, subgraphs

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
OPSET = 13  # the first one that has a scale for each channel


def ready(file: Path, made: Path, per_channel: bool) -> Any:
    """The model in `file`, changed by what costs a quantised file no answer; `made`: where it may be written meanwhile.

    Args:
        per_channel: weights will have a scale for every output channel.
    """
    model = _prepared(file, made)
    _name_nodes(model)
    _own_biases(model)
    if per_channel:
        _own_weights(model)
    return model


def _prepared(file: Path, made: Path) -> Any:
    """The model with batch norms folded and every shape known that can be: a tensor of unknown type stays float."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    model, raised = read_onnx(file), made.with_name("raised.onnx")
    if is_quantised(model):
        raise RefusedError("its network is quantised already: INT8 is made of one in fp32")
    halves = {each.name for each in model.graph.initializer if each.data_type == each.FLOAT16}
    if any(halves & {*node.input} for node in model.graph.node if node.op_type in (*WEIGHTED, "LSTM")):
        raise RefusedError("its layers are in float16: INT8 is made of a network in fp32")
    raise_opset(model, OPSET)
    save_onnx(model, raised)
    source, target = str(raised.resolve()), str(made.resolve())
    with contextlib.chdir(made.parent):  # where it gives up it leaves what it has in the folder that the process is in
        try:
            quant_pre_process(source, target)
        except Exception:  # the symbolic inference raises bare Exceptions at operators it has no rule for
            quant_pre_process(source, target, skip_symbolic_shape=True)
    return read_onnx(made)


def _name_nodes(model: Any) -> None:
    """Every node gets a name: the ones to leave out are named to onnxruntime."""
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"


def _own_biases(model: Any) -> None:
    """A Gemm's bias becomes (N,), with the factor that scales it inside: onnxruntime's quantisation gets others wrong, or fails."""
    from onnx import numpy_helper

    tensors = {each.name: each for each in model.graph.initializer}
    readers = Counter(name for graph in subgraphs(model.graph) for node in graph.node for name in node.input)
    for node in model.graph.node:
        if node.op_type != "Gemm" or len(node.input) < 3 or node.input[2] not in tensors:
            continue
        beta = next((each for each in node.attribute if each.name == "beta"), None)
        factor, tensor = 1.0 if beta is None else beta.f, tensors[node.input[2]]
        values = numpy_helper.to_array(tensor)
        whole = values.ravel() if values.shape[:-1] in ((), (1,)) else values
        if whole.size == 1 and node.input[1] in tensors:
            whole = np.repeat(whole, tensors[node.input[1]].dims[_channels_at(node, 1)])
        if factor == 1 and whole.shape == values.shape:
            continue
        if readers[tensor.name] > 1:
            tensor = model.graph.initializer.add()
            tensor.name = f"{node.name}.bias"
        tensor.CopyFrom(numpy_helper.from_array((factor * whole).astype(values.dtype), tensor.name))
        node.input[2] = tensor.name
        if beta is not None:
            beta.f = 1.0


def _own_weights(model: Any) -> None:
    """A weight whose output channels lie along another axis for some node is there once for each axis: it has one axis of scales.

    onnxruntime fuses a node with that axis whatever its own is: a square matrix that is read as it is and transposed is wrong then.
    """
    tensors = {each.name: each for each in model.graph.initializer}
    copies: dict[str, dict[int, str]] = {}
    for node in model.graph.node:
        for at, name in enumerate(node.input if node.op_type in WEIGHTED else ()):
            if name not in tensors or at > 1 or len(tensors[name].dims) < 2:
                continue
            axis = _channels_at(node, at) % len(tensors[name].dims)
            known = copies.setdefault(name, {})
            if axis not in known:
                known[axis] = f"{node.name}.{name}" if known else name
                if known[axis] != name:
                    model.graph.initializer.add().CopyFrom(tensors[name])
                    model.graph.initializer[-1].name = known[axis]
            node.input[at] = known[axis]


def _channels_at(node: Any, at: int) -> int:
    """The axis of a node's outputs in the weight that is its input `at`."""
    if node.op_type in ("Conv", "ConvTranspose"):
        return int(node.op_type == "ConvTranspose")
    transposed = any(each.name == ("transA", "transB")[at] and each.i for each in node.attribute)
    return -1 - int(transposed) if at else -2 + int(transposed)


def is_layer(node: Any, model: Any) -> bool:
    weights = {each.name for each in model.graph.initializer}
    return node.op_type in (*WEIGHTED, "LSTM") and any(name in weights for name in node.input)


@contextmanager
def theirs() -> Iterator[None]:
    """Raise RefusedError for what onnxruntime's quantiser cannot write."""
    try:
        yield
    except Exception as error:  # it raises whatever its parts do
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise RefusedError(f"onnxruntime's quantiser fails: {reason}") from error


def finished(model: Any, per_channel: bool, keep_tables: bool) -> Any:
    """What was quantised as it ships: with its embeddings in 8 bits, without what tells about the run."""
    if not keep_tables:
        quantize_embeddings(model, per_channel)
    anonymous(model)
    return model
