"""Before a network is quantised: channels brought to one range, and biases that take what rounded weights get wrong on average.

The first leaves the fp32 network's answers as they are, the second is for layers that are quantised and no others; neither costs
anything later.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from kdsearch.kit.onnx import open_model

Array = np.ndarray[Any, Any]
KEEPS_SCALE = (
    "Relu",
    "LeakyRelu",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "Identity",
)  # f(s x) = s f(x) for s > 0
MOST = 1024.0  # that a channel is scaled by


def equalized(model: Any, rows: Iterable[Mapping[str, Array]]) -> int:
    """Scale channels between convolutions in place, so that each has the range of the largest; returns how many pairs.

    Nagel et al. (ICCV 2019, arXiv 1906.04721) by ranges of activations. A convolution's output channel may be scaled freely, since
    its weights have a scale a channel; the next one takes the inverse at its input. Where that is depthwise, this too is free, and
    the whole difference is evened out; else half of it, so that its weights' channels stay near one another.
    """
    from onnx import numpy_helper

    tensors = {each.name: each for each in model.graph.initializer}
    pairs = [
        each
        for each in _pairs(model)
        if all(name in tensors for name in each[0].input[1:]) and each[1].input[1] in tensors
    ]
    if not pairs:
        return 0
    largest = _largest(model, [first.output[0] for first, *_ in pairs], rows)
    for first, second, between in pairs:
        name = first.output[0]
        ranges = np.maximum(largest[name], 1e-12)
        weight = numpy_helper.to_array(tensors[second.input[1]])
        is_depthwise = _group(second) == len(ranges) and weight.shape[1] == 1
        scale = (ranges / ranges.max()) ** (1.0 if is_depthwise else 0.5)
        scale = np.clip(scale, 1 / MOST, 1.0)  # what is small grows
        del between
        _rescale(tensors[first.input[1]], 1 / scale, 0)
        if len(first.input) > 2 and first.input[2]:
            _rescale(tensors[first.input[2]], 1 / scale, 0)
        if is_depthwise:
            _rescale(tensors[second.input[1]], scale, 0)
        else:
            _rescale(tensors[second.input[1]], scale, 1)
    return len(pairs)


def _rescale(tensor: Any, by: Array, axis: int) -> None:
    from onnx import numpy_helper

    values = numpy_helper.to_array(tensor)
    shape = [1] * values.ndim
    shape[axis] = -1
    tensor.CopyFrom(numpy_helper.from_array((values * by.reshape(shape)).astype(values.dtype), tensor.name))


def _group(node: Any) -> int:
    return next((int(each.i) for each in node.attribute if each.name == "group"), 1)


def _pairs(model: Any) -> list[tuple[Any, Any, list[Any]]]:
    """(convolution, the next one, what stands between) where all of it has one reader and keeps a channel's scale."""
    readers: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    uses = {name: len(nodes) for name, nodes in readers.items()}
    out = {each.name for each in model.graph.output}
    found, taken = [], set[str]()
    for first in model.graph.node:
        if first.op_type != "Conv" or any(uses[name] != 1 for name in first.input[1:] if name):
            continue
        node, between = first, list[Any]()
        while len(readers.get(node.output[0], [])) == 1 and node.output[0] not in out:
            node = readers[node.output[0]][0]
            if node.op_type not in KEEPS_SCALE:
                break
            between.append(node)
        is_next = node.op_type == "Conv" and node is not first and node.input[1] not in taken
        fits = (
            is_next and uses.get(node.input[1]) == 1 and (between[-1] if between else first).output[0] == node.input[0]
        )
        if fits and (_group(node) == 1 or _is_depthwise(model, node)):
            taken.add(node.input[1])
            found.append((first, node, between))
    return found


def _is_depthwise(model: Any, node: Any) -> bool:
    """One filter a channel, as many outputs as inputs."""
    dims = next((list(each.dims) for each in model.graph.initializer if each.name == node.input[1]), [])
    return bool(dims) and dims[1] == 1 and dims[0] == _group(node)


def _largest(model: Any, names: list[str], rows: Iterable[Mapping[str, Array]]) -> dict[str, Array]:
    """Tensor (B, C, ...) -> (C,) largest absolute value of each channel."""
    session = open_model(model, names)
    found: dict[str, Array] = {}
    for row in rows:
        for name, value in zip(names, session.run(names, dict(row)), strict=True):
            most = np.abs(np.moveaxis(value, 1, 0)).reshape(value.shape[1], -1).max(1)
            found[name] = np.maximum(found.get(name, 0.0), most)
    return found


def bias_shifts(
    model: Any, rows: Iterable[Mapping[str, Array]], limit: int, names: Iterable[str], per_channel: bool
) -> dict[str, Array]:
    """Convolution's name -> (C,) what its rounded weights lack on average, for its bias: none where that has other readers.

    (W - W_q) E[x], by the mean of each input channel over the samples (Nagel et al. 2019, section 4.2, with data).

    Args:
        limit: the largest integer of a weight. names: of the nodes that may be quantised. per_channel: a scale for each output
            channel of a weight, not one for all.
    """
    from onnx import numpy_helper

    tensors, wanted = {each.name: each for each in model.graph.initializer}, set(names)
    uses: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    nodes = [
        node
        for node in model.graph.node
        if node.op_type == "Conv" and node.name in wanted and len(node.input) > 2 and {*node.input[1:]} <= {*tensors}
        and uses[node.input[2]] == 1
    ]  # fmt: skip
    if not nodes:
        return {}
    found: dict[str, Array] = {}
    means = _means(model, sorted({node.input[0] for node in nodes}), rows)
    for node in nodes:
        weight = numpy_helper.to_array(tensors[node.input[1]]).astype(np.float64)
        flat = weight.reshape(len(weight), -1)
        scale = np.maximum(np.abs(flat).max(1 if per_channel else None, keepdims=True) / limit, 1e-30)
        error = (flat - np.clip(np.rint(flat / scale), -limit, limit) * scale).reshape(*weight.shape[:2], -1).sum(2)
        groups = _group(node)
        mean = means[node.input[0]].reshape(groups, 1, -1)  # (G, 1, C / G)
        shift = (error.reshape(groups, -1, error.shape[1]) * mean).sum(2).ravel()
        if math.isfinite(float(np.abs(shift).max())):
            found[node.name] = shift
    return found


def shifted(model: Any, shifts: Mapping[str, Array]) -> Any:
    """A copy whose convolutions of these names have them added to their biases."""
    from onnx import numpy_helper

    model = type(model).FromString(model.SerializeToString())
    tensors = {each.name: each for each in model.graph.initializer}
    for node in model.graph.node:
        if node.name in shifts:
            tensor = tensors[node.input[2]]
            bias = numpy_helper.to_array(tensor).astype(np.float64) + shifts[node.name]
            tensor.CopyFrom(numpy_helper.from_array(bias.astype(np.float32), tensor.name))
    return model


def _means(model: Any, names: list[str], rows: Iterable[Mapping[str, Array]]) -> dict[str, Array]:
    """Tensor (B, C, ...) -> (C,) mean of each channel."""
    fed = {each.name for each in model.graph.input}
    outputs = [name for name in names if name not in fed]
    session = open_model(model, outputs)
    total: dict[str, Array] = {}
    n = 0
    for row in rows:
        values = {**row, **dict(zip(outputs, session.run(outputs, dict(row)) if outputs else [], strict=True))}
        for name in names:
            value = np.asarray(values[name], np.float64)
            total[name] = total.get(name, 0.0) + np.moveaxis(value, 1, 0).reshape(value.shape[1], -1).mean(1)
        n += 1
    return {name: each / n for name, each in total.items()}
