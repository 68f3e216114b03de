"""Static quantisation to QDQ: ranges of activations from samples, by onnxruntime's own tool."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kdsearch.builtin.int8 import dynamic
from kdsearch.builtin.int8.choices import Layers, Row, most_sensitive, read_inputs
from kdsearch.builtin.int8.equalize import bias_shifts, equalized, shifted
from kdsearch.builtin.int8.options import Int8Options, ends_kept, limit_of
from kdsearch.builtin.int8.ranges import Method, observed, range_of
from kdsearch.builtin.int8.ready import WEIGHTED, finished, is_layer, theirs
from kdsearch.kinds import Compressor
from kdsearch.kit.onnx import read_onnx, save_onnx
from kdsearch.ops.apart import LEAST, beyond

Ranges = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Setting:
    """What every static quantisation of one network has in common.

    Args:
        model: the network, its channels equalised where asked.
        layers: names of those that may be quantised. kept: nodes that stay fp32 in every file. worst: those of them that alone move
            the outputs most.
        ranges: of activations, in place of onnxruntime's own. shifts: node -> what is added to its bias where it is quantised: one
            that stays fp32 lacks nothing.
        notes: what holds of these files and no others.
        first: quantised, but for `kept`.
    """

    model: Any
    asked: Int8Options
    rows: Sequence[Row]
    work: Path
    layers_only: bool
    layers: tuple[str, ...]
    kept: tuple[str, ...]
    ranges: Ranges
    shifts: Mapping[str, Any]
    worst: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    first: Any = None


def calibrated(model: Any, asked: Int8Options, rows: Sequence[Row], work: Path, told: Compressor[Any]) -> Setting:
    """The setting of a network, with the ranges that the samples had. Raise RefusedError for what onnxruntime cannot quantise."""
    model, notes = type(model).FromString(model.SerializeToString()), list[str]()
    if asked.equalize and not asked.per_channel:
        notes.append("nothing is equalised: equalize needs per_channel")
    elif asked.equalize:
        notes.append(f"{equalized(model, rows)} pairs of convolutions equalised")
    layers = [node.name for node in model.graph.node if is_layer(node, model)]
    layers_only = _layers_only(model, asked.operators)
    weights = {each.name for each in model.graph.initializer}
    tables = [node.name for node in model.graph.node if node.op_type == "Gather" and node.input[0] in weights]
    kept = tables + ends_kept(layers, asked)
    if asked.per_channel and (grouped := _grouped(model)):
        notes.append(f"in fp32, since onnxruntime has no such layer with a scale a channel: {', '.join(grouped)}")
        kept += grouped
    if not layers_only and (joined := _joined_behind(model, layers)):
        notes.append(
            f"in fp32, since one scale does not fit all that is joined behind the last layers: {len(joined)} operators there"
        )
        kept += joined
    ranges, boundless = _ranges(model, rows, asked.calibration, layers_only)
    shifts: Mapping[str, Any] = {}
    if asked.correct_bias:
        wanted = [name for name in layers if name not in kept]
        shifts = bias_shifts(model, rows, limit_of(asked), wanted, asked.per_channel)
    setting = Setting(model, asked, rows, work, layers_only, tuple(layers), tuple(kept), ranges, shifts)
    setting = _without(setting, boundless)
    if asked.keep_sensitive:
        worst = tuple(most_sensitive(layers_of(setting), rows, work, told)[: asked.keep_sensitive])
        setting = replace(setting, kept=(*setting.kept, *worst), worst=worst)
    first = whole(setting)
    if boundless := _boundless(first, model, rows):
        setting = _without(setting, boundless)
        first = whole(setting)
    return replace(setting, first=first, notes=(*notes, *setting.notes))


def whole(setting: Setting, but: Sequence[str] = ()) -> Any:
    """The file's model, these further nodes in fp32; a LSTM is quantised as it reads."""
    if not but and setting.first is not None:
        return setting.first
    asked, kept = setting.asked, [*setting.kept, *but]
    found = _recurrent(setting, _quantized(setting, kept), kept)
    return finished(found, asked.per_channel, asked.keep_first)


def _recurrent(setting: Setting, found: Any, kept: Sequence[str]) -> Any:
    """With its LSTMs, but for those in `kept`, quantised."""
    if all(node.op_type != "LSTM" or node.name in kept for node in found.graph.node):
        return found
    return dynamic.quantized(found, setting.asked, setting.work, ("LSTM",), kept)


def layers_of(setting: Setting) -> Layers:
    """Those that may be quantised, and files with one of them alone. Their ranges are taken once, in one pass over the samples."""
    names = [name for name in setting.layers if name not in setting.kept]
    taken: list[Setting] = []

    def alone(name: str) -> Any:
        if not taken:
            taken.append(replace(setting, ranges={**_extremes(setting), **setting.ranges}))
        found = _quantized(taken[0], (), [name], is_ranged=True)
        return _recurrent(setting, found, [each for each in setting.layers if each != name])

    return Layers(setting.model, names, alone, lambda some: whole(setting, some))


def _without(setting: Setting, boundless: Collection[str]) -> Setting:
    """Nodes that make or read these tensors stay fp32: 8 bits hold no infinity, and the nearest number is another answer."""
    touched = [node.name for node in setting.model.graph.node if {*node.input, *node.output} & {*boundless}]
    if not touched:
        return setting
    said = f"in fp32, since they make or read infinities, or numbers far beyond all others: {', '.join(touched)}"
    return replace(setting, kept=(*setting.kept, *touched), notes=(*setting.notes, said))


def _boundless(made: Any, model: Any, rows: Sequence[Row]) -> set[str]:
    """Tensors of a quantised model that were not finite on the samples, so that neither are their scales; and those with numbers
    far beyond all others, beside which 8 bits tell these no longer apart.
    """
    from onnx import numpy_helper

    scales = {each.name: each for each in made.graph.initializer if each.data_type == each.FLOAT}
    nodes = [node for node in made.graph.node if node.op_type == "QuantizeLinear" and node.input[1] in scales]
    widest = {  # without what outputs of the graph get
        node.input[0].removesuffix("_QuantizeLinear_Input"): float(numpy_helper.to_array(scales[node.input[1]]).max())
        for node in nodes
    }
    lost = {name for name, scale in widest.items() if not math.isfinite(scale)}
    wide = [name for name, scale in widest.items() if name not in lost and scale > LEAST / 255]
    seen = observed(model, rows, wide) if wide else {}
    return lost | {name for name, each in seen.items() if math.isfinite(beyond(each.values))}


def _joined_behind(model: Any, layers: Collection[str]) -> list[str]:
    """Nodes behind the last layers, with all that is computed beside them there, where a Concat joins several computed tensors.

    As boxes of hundreds of pixels and scores below 1 are, in a detector's one output: 8 bits for both tell no scores apart. What
    follows is arithmetic on few numbers, which costs little in fp32.
    """
    from onnx import TensorProto

    nodes = model.graph.node
    makers = {name: node for node in nodes for name in node.output}
    leads = set[str]()  # values that a layer reads, at last
    behind = []
    for node in reversed(nodes):
        if node.name in layers or leads & {*node.output}:
            leads.update(node.input)
        else:
            behind.append(node)
    typed = (*model.graph.value_info, *model.graph.output)
    floats = {each.name for each in typed if each.type.tensor_type.elem_type == TensorProto.FLOAT}
    joining = [
        node for node in behind
        if node.op_type == "Concat" and node.output[0] in floats and sum(each in makers for each in node.input) > 1
    ]  # fmt: skip
    found, names = {node.name for node in joining}, {node.name for node in behind}
    values = {name for node in joining for name in (*node.input, *node.output)} & makers.keys()
    while True:  # whatever there shares a value with them
        more = [node for node in behind if node.name not in found and values & {*node.input, *node.output}]
        if not more:
            break
        found |= {node.name for node in more}
        values |= {
            name
            for node in more
            for name in (*node.input, *node.output)
            if name in makers and makers[name].name in names
        }
    return [node.name for node in nodes if node.name in found]


def _grouped(model: Any) -> list[str]:
    """Transposed convolutions in groups of several outputs, with a bias: onnxruntime takes a group's scales for all outputs'."""
    weights = {each.name: each for each in model.graph.initializer}
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "ConvTranspose" and len(node.input) > 2 and node.input[1] in weights
        and weights[node.input[1]].dims[1] > 1 and any(each.name == "group" and each.i > 1 for each in node.attribute)
    ]  # fmt: skip


def _ranges(model: Any, rows: Sequence[Row], method: Method, layers_only: bool) -> tuple[Ranges, set[str]]:
    """Of every activation that may be quantised, and which were not finite. minmax is onnxruntime's own business, but for what it
    takes the wrong range of.
    """
    from onnx import TensorProto

    names = _cut_off(model)
    if method != "minmax":
        typed = (*model.graph.value_info, *model.graph.input, *model.graph.output)
        floats = {each.name for each in typed if each.type.tensor_type.elem_type == TensorProto.FLOAT}
        floats -= {each.name for each in model.graph.initializer}
        nodes = [node for node in model.graph.node if not layers_only or node.op_type in WEIGHTED]
        names = list(dict.fromkeys(name for node in nodes for name in (*node.input, *node.output) if name in floats))
    seen = observed(model, rows, names)
    return (
        {name: range_of(each, method) for name, each in seen.items()},
        {name for name, each in seen.items() if not np.isfinite(each.values).all()},
    )


def _cut_off(model: Any) -> list[str]:
    """Outputs that a Relu or Clip reads: where nothing else in the graph does, onnxruntime takes the range behind it for theirs."""
    answers = {each.name for each in model.graph.output}
    return list(
        dict.fromkeys(
            node.input[0] for node in model.graph.node if node.op_type in ("Relu", "Clip") and node.input[0] in answers
        )
    )


def _extremes(setting: Setting) -> Ranges:
    """Least and largest of every activation, as onnxruntime itself takes them for each file."""
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    if setting.asked.calibration != "minmax":
        return {}
    file = setting.work / "extremes.onnx"
    save_onnx(setting.model, file)
    with theirs():
        calibrator = create_calibrator(
            file, augmented_model_path=str(setting.work / "augmented.onnx"), calibrate_method=CalibrationMethod.MinMax
        )
        calibrator.collect_data(_Reader(setting.rows, read_inputs(setting.model)))
        found = {name: each.range_value for name, each in calibrator.compute_data().items()}
    return {name: (float(np.squeeze(low)), float(np.squeeze(high))) for name, (low, high) in found.items()}


def _quantized(setting: Setting, kept: Sequence[str], alone: Sequence[str] = (), is_ranged: bool = False) -> Any:
    """Quantised without the nodes in `kept`; with `alone`, nothing but those. `is_ranged`: no sample is needed for ranges."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    asked, work = setting.asked, setting.work
    chosen = {name: shift for name, shift in setting.shifts.items() if name not in kept and name in (alone or [name])}
    save_onnx(shifted(setting.model, chosen), work / "static.onnx")
    is_ranged = is_ranged or (bool(setting.ranges) and asked.calibration != "minmax")
    overrides = {
        name: [{"rmin": np.float32(low), "rmax": np.float32(high)}]
        for name, (low, high) in setting.ranges.items()
        if high > low and np.isfinite(high - low)
    }
    with theirs(), np.errstate(invalid="ignore"):  # of ranges that are not finite, which shows in their scales
        quantize_static(
            str(work / "static.onnx"),
            str(work / "made.onnx"),
            _Reader(setting.rows[:1] if is_ranged else setting.rows, read_inputs(setting.model)),
            quant_format=QuantFormat.QDQ,
            per_channel=asked.per_channel,
            reduce_range=asked.reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            op_types_to_quantize=list(WEIGHTED) if setting.layers_only else None,
            nodes_to_quantize=list(alone) or None,
            nodes_to_exclude=list(kept),
            extra_options={"TensorQuantOverrides": overrides} if overrides else {},
        )
    return read_onnx(work / "made.onnx")


class _Reader:
    """What onnxruntime pulls calibration samples from; `rewind` because a reader ends after one pass.

    Samples of one shape are together: onnxruntime's histograms stack what they are given at once, and take it range by range
    (`set_range`, of `len` ranges).
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
        by_shape: dict[Any, list[Mapping[str, Any]]] = {}
        for row in rows:
            by_shape.setdefault(tuple(row[name].shape for name in names), []).append(row)
        self.groups, self.names = list(by_shape.values()), names
        self.rewind()

    def __len__(self) -> int:
        return len(self.groups)

    def set_range(self, start_index: int, end_index: int) -> None:
        self.left = (row for group in self.groups[start_index:end_index] for row in group)

    def rewind(self) -> None:
        self.set_range(0, len(self.groups))

    def get_next(self) -> dict[str, Any] | None:
        row = next(self.left, None)
        return None if row is None else {name: row[name] for name in self.names}


def _layers_only(model: Any, operators: str) -> bool:
    """A transformer's residual stream does not fit 8 bits: ViT-tiny 0.70 relative error with it, 0.06 without, equally fast."""
    kinds = {node.op_type for node in model.graph.node}
    return operators == "layers" or (operators == "auto" and bool(kinds & {"LayerNormalization", "Softmax"}))
