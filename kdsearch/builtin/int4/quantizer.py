"""INT4 weights: every kernel and matrix as blocks of 4 bits, unpacked by DequantizeLinear (opset 21), in the file itself."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field as Option

from kdsearch.builtin.int4.blocks import Blocks, fit, half_quadratic, plain
from kdsearch.builtin.int4.graph import Weight, bias_of, lift_constants, stored, weights_of
from kdsearch.builtin.int4.packed import pack
from kdsearch.builtin.int4.rounding import SWEEPS, Moments, calibrate_all, mean_error, moments
from kdsearch.builtin.simulated import Layer, Round, in_blocks, simulated
from kdsearch.kinds import Compressor, Model, Options, Plan, Subject, searched
from kdsearch.kit.onnx import as_proto, edited, is_plain, raise_opset, read_onnx, save_onnx

OPSET, IR = 21, 10  # the first ones that have 4-bit integers in blocks
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
        proto = read_onnx(file)
        raise_opset(proto, OPSET)
        with edited(proto) as model:
            is_smaller = self._store(model, plan.edits, feeds)
        if is_smaller:
            save_onnx(proto, file)

    def _store(self, model: Any, edits: Mapping[str, Any], feeds: Iterable[Mapping[str, Any]]) -> bool:
        """In few bits, in place, what of the weights of this `onnx_ir.Model` may be; whether there are any."""
        model.ir_version = max(model.ir_version, IR)
        lift_constants(model)
        graph, every = model.graph, weights_of(model.graph)
        widths = bits_of([(each.names, each.flat, each.axis) for each in every], edits)
        weights = [(each, bits) for each, bits in zip(every, widths, strict=True) if bits]
        if apart := [each.name for each, _ in weights if not is_plain(each.rows(graph))]:
            weights = [(each, bits) for each, bits in weights if each.name not in apart]
            self.note(f"in fp32, since no scale holds their infinities or huge numbers: {', '.join(apart)}")
        if not weights:
            least = edits["min_elements"]
            small = f"its {len(every)} weights of fp32 have fewer than {least} numbers, or one a row, or are skipped"
            self.note(f"nothing is in 4 bits: {small if every else 'no operator reads a weight of fp32'}")
            return False
        seen: Mapping[str, Moments] = {}
        if edits.get("rounding") in CALIBRATING:  # a plan from before the option existed has none
            n, given = _first(feeds, edits["samples"])
            seen = moments(as_proto(model), [read for each, _ in weights for read in each.reads], given, edits["block"])
            self.note(f"calibrated on {n} samples" if n else "rounded to the nearest: there are no samples")
        sizes = [math.prod(each.flat) for each, _ in weights]
        unpacking: list[Any] = []
        for at, (weight, bits) in enumerate(weights):
            self.progress(sum(sizes[:at]) / sum(sizes), f"{weight.name}, {at + 1} of {len(weights)}")
            blocks = _rounded(graph, weight, edits, bits, seen)
            may_pack = bits == 4 and edits.get("linear") == "packed" and weight.reads
            if not (may_pack and pack(model, weight, blocks)):
                unpacking += stored(graph, weight, blocks, bits)
        graph.insert_before(graph[0], unpacking)
        return True


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


def _rounded(graph: Any, weight: Weight, edits: Mapping[str, Any], bits: int, seen: Mapping[str, Moments]) -> Blocks:
    """The weight's blocks; where its inputs were seen, the layer's bias takes the mean error of the outputs."""
    import onnx_ir as ir

    rows = weight.rows(graph)
    blocks = WITHOUT_DATA.get(edits.get("rounding", ""), fit)(rows, edits["block"], bits, edits["symmetric"])
    if weight.name not in seen:
        return blocks
    inputs = seen[weight.name]
    bias = bias_of(weight, len(rows))
    blocks = calibrate_all(
        rows, blocks, inputs.covariance if bias else inputs.second(), bits, CALIBRATING[edits["rounding"]]
    )
    if bias:
        value, gain = bias
        was = value.const_value.numpy()
        moved = was.astype(np.float64) + gain * mean_error(rows, blocks, inputs.mean).reshape(was.shape)
        value.const_value = ir.tensor(moved.astype(np.float32), name=value.name)
    return blocks
