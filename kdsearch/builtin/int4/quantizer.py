"""INT4 weights: every kernel and matrix as blocks of 4 bits, unpacked by DequantizeLinear (opset 21), in the file itself."""

from __future__ import annotations

import fnmatch
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field as Option

from kdsearch.builtin.int4.blocks import Array, Blocks, fit, half_quadratic, plain
from kdsearch.builtin.int4.packed import pack
from kdsearch.builtin.int4.rounding import SWEEPS, Moments, Read, calibrate_all, mean_error, moments
from kdsearch.builtin.simulated import Layer, Round, in_blocks, simulated
from kdsearch.kinds import Compressor, Model, Options, Plan, Subject, searched
from kdsearch.kit.onnx import raise_opset, read_onnx, save_onnx, subgraphs

OPSET, IR = 21, 10  # the first ones that have 4-bit integers in blocks
CALIBRATED = ("Conv", "Gemm", "MatMul")
CALIBRATING = {"calibrated": SWEEPS, "gptq": 0}  # rounding -> sweeps after GPTQ
WITHOUT_DATA = {"hqq": half_quadratic, "rtn": plain}


class Int4Options(Options):
    block: Annotated[Literal[16, 32, 64, 128], searched(16, 32, 64, 128)] = Option(
        32, description="weights that share a scale; fewer are more exact and larger"
    )
    symmetric: bool = Option(True, description="no zero points: a little smaller, a little less exact")
    min_elements: int = Option(128, ge=2, description="smaller weights stay fp32")
    skip: tuple[str, ...] = Option((), strict=False, description="globs on names of nodes and weights that stay fp32")
    edges: Literal[4, 8] = Option(4, description="bits of the first and the last layer")
    rounding: Literal["calibrated", "gptq", "nearest", "hqq", "rtn"] = Option(
        "calibrated",
        description="calibrated = keep layers' outputs near on training samples: gptq, then sweeps that move one integer or scale "
        "at a time; gptq = without those; without data: nearest = the scale of least squared error, hqq = that of half-quadratic "
        "quantisation, rtn = the range that a block spans",
    )
    linear: Literal["dequantize", "packed"] = Option(
        "dequantize",
        description="matrix products: dequantize = standard operators, which the runtime unpacks; packed = onnxruntime's own "
        "MatMulNBits, whose weights stay in 4 bits in memory, in fp32 arithmetic",
    )
    samples: int = Option(128, ge=1, description="training samples to calibrate with")


@dataclass(frozen=True)
class _Weight:
    """One weight to store in few bits.

    Args:
        names: its own, and those of the nodes that read it.
        shape: as the operator reads it.
        flat: as it is stored.
        axis: of `flat`, along which blocks lie: the one the operator sums over.
    """

    name: str
    names: tuple[str, ...]
    shape: tuple[int, ...]
    flat: tuple[int, ...]
    axis: int


class Int4(Compressor[Int4Options]):
    """Smaller, not faster: onnxruntime computes in fp32. Opened through `load`, the weights are unpacked once.

    Biases and normalisation stay fp32. Unless packed, a Reshape stands between DequantizeLinear and every operator, also where
    shapes agree: onnxruntime would otherwise fuse MatMul to MatMulNBits, which rounds activations to 8 bits (1.7 % error seen).
    """

    side = "file"

    def plan(self, subject: Subject) -> Plan:
        """The settings; which weights they mean shows when the file is there."""
        options = self.options
        how = "symmetric" if options.symmetric else "with zero points"
        log = f"INT4 weights in blocks of {options.block}, {how}, rounding {options.rounding}"
        return Plan(options.model_dump(mode="json"), log=(log,))

    def apply(self, model: Model, plan: Plan) -> Model:
        """A copy that trains with the weights that it will have, by the range that each block spans.

        Layers are known by their paths here (`head`, `head.weight`), their order is that in which the network declares them.
        """
        edits = plan.edits

        def how(layers: Sequence[Layer]) -> list[Round | None]:
            axes = [0 if each.is_transposed else 1 for each in layers]
            bits = bits_of(
                [
                    ((each.path, *(f"{each.path}.{name}" for name in each.names)), each.shape, axis)
                    for each, axis in zip(layers, axes, strict=True)
                ],
                edits,
            )
            return [
                in_blocks(edits["block"], n, edits["symmetric"], axis) if n else None
                for axis, n in zip(axes, bits, strict=True)
            ]

        return simulated(model, how, activations=False)

    def rewrite(self, file: Path, plan: Plan, feeds: Iterable[Mapping[str, Any]]) -> None:
        """Without feeds, and for ConvTranspose, Gather and recurrent layers, rounding is to the nearest. A file without a weight to
        store in few bits stays as it is, with a note.
        """
        model = read_onnx(file)
        raise_opset(model, OPSET)
        model.ir_version = max(model.ir_version, IR)
        _lift_constants(model.graph)
        every = list(_weights(model.graph))
        widths = bits_of([(each.names, each.flat, each.axis) for each in every], plan.edits)
        weights = [each for each, bits in zip(every, widths, strict=True) if bits]
        if not weights:
            least = plan.edits["min_elements"]
            small = f"its {len(every)} weights of fp32 have fewer than {least} numbers, or one a row, or are skipped"
            self.note(f"nothing is in 4 bits: {small if every else 'no operator reads a weight of fp32'}")
            return
        bits_by_name = {each.name: bits for each, bits in zip(every, widths, strict=True)}
        reads = _reads(model.graph, weights)
        alike = {each.weight for each in reads}  # whose rows are those of every node that reads them
        calibrated = plan.edits.get("rounding") in CALIBRATING  # a plan from before the option existed has none
        seen: Mapping[str, Moments] = {}
        if calibrated:
            n, given = _first(feeds, plan.edits["samples"])
            seen = moments(model, reads, given, plan.edits["block"])
            self.note(f"calibrated on {n} samples" if n else "rounded to the nearest: there are no samples")
        unpacking: list[Any] = []
        sizes = [math.prod(each.flat) for each in weights]
        for at, weight in enumerate(weights):
            self.progress(sum(sizes[:at]) / sum(sizes), f"{weight.name}, {at + 1} of {len(weights)}")
            bits = bits_by_name[weight.name]
            blocks = _rounded(model.graph, weight, plan.edits, bits, seen, reads)
            may_pack = bits == 4 and plan.edits.get("linear") == "packed" and weight.name in alike
            if may_pack and pack(model, weight.name, blocks):
                continue
            unpacking += _store(model.graph, weight, blocks, bits)
        _set_nodes(model.graph, [*unpacking, *model.graph.node])
        save_onnx(model, file)


def _first(feeds: Iterable[Mapping[str, Any]], most: int) -> tuple[int, list[Mapping[str, Any]]]:
    """At most so many samples, and how many there are."""
    found, n = list[Mapping[str, Any]](), 0
    for feed in feeds:
        size = min(len(next(iter(feed.values()), ())), most - n)
        if size:
            found.append({name: value[:size] for name, value in feed.items()})
        n += size
        if n == most:
            break
    return n, found


def _lift_constants(graph: Any) -> None:
    """Floating-point Constant nodes become initializers, so that weights are in one place."""
    from onnx import TensorProto

    kept = []
    for node in graph.node:
        value = node.attribute[0].t if node.op_type == "Constant" and node.attribute else None
        if value is not None and value.data_type == TensorProto.FLOAT and len(value.dims) >= 2:
            graph.initializer.add().CopyFrom(value)
            graph.initializer[-1].name = node.output[0]
        else:
            kept.append(node)
    _set_nodes(graph, kept)


def _set_nodes(graph: Any, nodes: list[Any]) -> None:
    """Copies first: emptying the list invalidates the nodes that it owns."""
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def bits_of(weights: Sequence[tuple[Collection[str], Sequence[int], int]], edits: Mapping[str, Any]) -> list[int]:
    """Bits of each weight, 0 = it stays fp32: what the file has, and what trains as quantised.

    Args:
        weights: names by which each may be skipped, its shape as it is stored, and the axis of the blocks, in the order in which
            they are used.
    """

    def stays(names: Collection[str], shape: Sequence[int], axis: int) -> bool:
        is_scaled_alone = shape[axis] == 1  # a scale for each number: larger than it was
        if math.prod(shape) < edits["min_elements"] or is_scaled_alone:
            return True
        return any(fnmatch.fnmatchcase(each, glob) for each in names for glob in edits["skip"])

    found = [0 if stays(*each) else 4 for each in weights]
    stored = [at for at, bits in enumerate(found) if bits]
    for at in (*stored[:1], *stored[-1:]):
        found[at] = edits["edges"]
    return found


def _weights(graph: Any) -> Iterator[_Weight]:
    """Weights that could be quantised in the order they are used, each once."""
    from onnx import TensorProto

    shapes = {each.name: tuple(each.dims) for each in graph.initializer if each.data_type == TensorProto.FLOAT}
    reads = [(node, each) for node in graph.node for each in _layouts(node, shapes)]
    for name in dict.fromkeys(name for _, (name, _, _) in reads):
        nodes = [node.name for node, (read, _, _) in reads if read == name]
        flat, axis = next((flat, axis) for _, (read, flat, axis) in reads if read == name)
        yield _Weight(name, (name, *nodes), shapes[name], flat, axis)


def _layouts(node: Any, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, tuple[int, ...], int]]:
    """(weight's name, shape it is stored in, axis of the blocks) of the weights that `node` reads."""

    def shape(at: int) -> tuple[int, ...]:
        found = shapes.get(node.input[at], ()) if at < len(node.input) else ()
        return found if len(found) >= 2 else ()

    if node.op_type == "Conv" and (w := shape(1)):
        yield node.input[1], (w[0], math.prod(w[1:])), 1
    elif node.op_type == "ConvTranspose" and (w := shape(1)):
        yield node.input[1], (w[0], math.prod(w[1:])), 0
    elif node.op_type == "Gemm" and (w := shape(1)):
        transposed = any(each.name == "transB" and each.i for each in node.attribute)
        yield node.input[1], w, 1 if transposed else 0
    elif node.op_type == "MatMul":
        if w := shape(0):
            yield node.input[0], w, len(w) - 1
        if w := shape(1):
            yield node.input[1], w, len(w) - 2
    elif node.op_type == "Gather" and (w := shape(0)):
        yield node.input[0], w, len(w) - 1
    elif node.op_type in ("LSTM", "GRU", "RNN"):
        for at in (1, 2):
            if w := shape(at):
                yield node.input[at], (w[0] * w[1], w[2]), 1


def _reads(graph: Any, weights: Iterable[_Weight]) -> list[Read]:
    """Where weights multiply activations; nothing of a weight that is read in any other way too."""
    uses = _uses(graph)
    found: list[Read] = []
    for weight in weights:
        reads = [
            Read(weight.name, node, list(node.input).index(weight.name), weight.shape)
            for node in graph.node
            if node.op_type in CALIBRATED and (node.op_type != "MatMul" or len(weight.shape) == 2)
            for layout in _layouts(node, {weight.name: weight.shape})
            if layout == (weight.name, weight.flat, weight.axis)
        ]
        groups = {each.i for read in reads for each in read.node.attribute if each.name == "group"}
        if len(reads) == uses[weight.name] and len(groups) <= 1:
            found += reads
    return found


def _uses(graph: Any) -> Counter[str]:
    """How many inputs of nodes, also of nested ones, each name is; outputs of the graph count as well."""
    names = [name for each in subgraphs(graph) for node in each.node for name in node.input]
    return Counter(names + [each.name for each in graph.output])


def _rounded(
    graph: Any,
    weight: _Weight,
    edits: Mapping[str, Any],
    bits: int,
    seen: Mapping[str, Moments],
    reads: Iterable[Read],
) -> Blocks:
    """The weight's blocks; where its inputs were seen, the layer's bias takes the mean error of the outputs."""
    from onnx import numpy_helper

    rows = _rows(weight, numpy_helper.to_array(_initializer(graph, weight.name)))
    blocks = WITHOUT_DATA.get(edits.get("rounding", ""), fit)(rows, edits["block"], bits, edits["symmetric"])
    if weight.name not in seen:
        return blocks
    inputs = seen[weight.name]
    bias = _bias(graph, [each for each in reads if each.weight == weight.name], len(rows))
    blocks = calibrate_all(
        rows, blocks, inputs.covariance if bias else inputs.second(), bits, CALIBRATING[edits["rounding"]]
    )
    if bias:
        tensor, gain = bias
        values = numpy_helper.to_array(tensor)
        moved = values.astype(np.float64) + gain * mean_error(rows, blocks, inputs.mean).reshape(values.shape)
        tensor.CopyFrom(numpy_helper.from_array(moved.astype(np.float32), tensor.name))
    return blocks


def _bias(graph: Any, reads: list[Read], rows: int) -> tuple[Any, float] | None:
    """The initializer that only this layer adds to its outputs, one number each, and what a unit of output is in it."""
    from onnx import TensorProto

    if len(reads) != 1:
        return None
    node, uses, gain = reads[0].node, _uses(graph), 1.0
    name = node.input[2] if len(node.input) > 2 else ""
    if node.op_type == "Gemm":
        factors = {each.name: each.f for each in node.attribute}
        gain = factors.get("alpha", 1.0) / (factors.get("beta", 1.0) or math.inf)
    elif node.op_type == "MatMul" and reads[0].at == 1 and uses[node.output[0]] == 1:
        sums = [each for each in graph.node if each.op_type == "Add" and node.output[0] in each.input]
        name = next((other for each in sums for other in each.input if other != node.output[0]), "")
    tensor = next((each for each in graph.initializer if each.name == name), None)
    if tensor is None or tensor.data_type != TensorProto.FLOAT or uses[name] != 1 or not gain:
        return None
    return (tensor, gain) if tuple(tensor.dims[-1:]) == (rows,) == (math.prod(tensor.dims),) else None


def _initializer(graph: Any, name: str) -> Any:
    return next(each for each in graph.initializer if each.name == name)


def _rows(weight: _Weight, values: Array) -> Array:
    """(R, K): a block lies along a row."""
    last = np.moveaxis(values.reshape(weight.flat), weight.axis, -1)
    return last.reshape(-1, last.shape[-1])


def _store(graph: Any, weight: _Weight, blocks: Blocks, bits: int) -> list[Any]:
    """Replace the initializer by integers; returns DequantizeLinear and Reshape, whose output takes the weight's name."""
    from onnx import helper, numpy_helper

    others = [size for axis, size in enumerate(weight.flat) if axis != weight.axis]

    def back(array: Array) -> Array:
        return np.ascontiguousarray(np.moveaxis(array.reshape(*others, -1), -1, weight.axis))

    name = weight.name
    graph.initializer.remove(_initializer(graph, name))
    parts = _parts(name, blocks, bits, back)
    shape = numpy_helper.from_array(np.asarray(weight.shape, np.int64), f"{name}.shape")
    graph.initializer.extend([*parts, shape])
    unpack = helper.make_node(
        "DequantizeLinear",
        [each.name for each in parts],
        [f"{name}.flat"],
        name=f"{name}.dequantize",
        axis=weight.axis,
        block_size=blocks.block,
    )
    reshape = helper.make_node("Reshape", [f"{name}.flat", shape.name], [name], name=f"{name}.reshape")
    return [unpack, reshape]


def _parts(name: str, blocks: Blocks, bits: int, back: Any) -> list[Any]:
    import ml_dtypes
    from onnx import numpy_helper

    signed, unsigned = (ml_dtypes.int4, ml_dtypes.uint4) if bits == 4 else (np.int8, np.uint8)
    dtype = signed if blocks.zero is None else unsigned
    parts = [
        numpy_helper.from_array(back(blocks.q).astype(dtype), f"{name}.int{bits}"),
        numpy_helper.from_array(back(blocks.scale).astype(np.float32), f"{name}.scale"),
    ]
    if blocks.zero is not None:
        parts.append(numpy_helper.from_array(back(blocks.zero).astype(dtype), f"{name}.zero"))
    return parts
