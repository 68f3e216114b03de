"""INT8: onnxruntime's static quantisation to QDQ, unsigned activations, signed weights, or its dynamic one where that is better."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field as Option
from torch import nn

from kdsearch.builtin.int8.choices import Layers, Row, better, mixed, most_sensitive, read_inputs
from kdsearch.builtin.int8.equalize import bias_shifts, equalized, shifted
from kdsearch.builtin.int8.ranges import Method, observed, range_of
from kdsearch.builtin.int8.ready import WEIGHTED, ready
from kdsearch.builtin.int8.tables import quantize_embeddings
from kdsearch.builtin.simulated import Layer, Round, simulated, to_limit
from kdsearch.errors import RefusedError, UserError
from kdsearch.kinds import Compressor, Judge, Model, Options, Plan, Subject, searched
from kdsearch.kit.onnx import anonymous, read_onnx, save_onnx

DYNAMIC = ("MatMul", "Gemm", "LSTM", "Attention")  # what onnxruntime computes in INT8 with ranges taken at each call
LIMIT = 64  # the largest integer of a weight in 7 bits


class Int8Options(Options):
    mode: Literal["auto", "static", "dynamic"] = Option(
        "auto",
        description="static = activation ranges from training samples; dynamic = taken at each call, for matrix products and LSTM; "
        "auto = of transformers and recurrent networks both are made, and the one stays that is better on validation, else faster, "
        "else nearer to fp32, else smaller; static for all others",
    )
    calibration: Method = Option(
        "minmax",
        description="activation ranges: minmax = of all values; percentile = without the outermost 0.1 %; entropy = least "
        "divergence of the values' histogram; mse = least squared error",
    )
    samples: Annotated[int, searched(64, 128, 256, 512)] = Option(
        256, ge=1, description="training samples to calibrate with"
    )
    operators: Literal["auto", "all", "layers"] = Option(
        "auto",
        description="all = also additions and activations between layers; layers = convolutions and matmuls only; "
        "auto = layers in transformers, else all",
    )
    per_channel: bool = Option(True, description="a scale for every output channel of a weight, not one for all")
    reduce_range: bool = Option(
        True,
        description="weights in 7 bits: x86 processors without VNNI add products of 8-bit weights in 16 bits, which overflow; "
        "false = 8 bits, right on processors with VNNI and on ARM alone",
    )
    equalize: bool = Option(
        False,
        description="bring channels between convolutions to one range first, where only what keeps a scale stands between",
    )
    correct_bias: bool = Option(
        False, description="biases take what rounded weights of convolutions get wrong on average"
    )
    keep_sensitive: int = Option(
        0,
        ge=0,
        description="so many layers stay fp32: those that alone move the outputs most; a quantisation each to find them",
    )
    mixed: bool = Option(
        True,
        description="of a static file that loses more on validation than the study allows, layers go back to fp32: the most "
        "sensitive first, as few as keep the bound",
    )
    keep_first: bool = Option(False, description="leave the first layer, and embeddings of tokens, in fp32")
    keep_last: bool = Option(False, description="leave the last layer in fp32")


class Int8(Compressor[Int8Options]):
    """Convolutions, matmuls and LSTM compute in INT8, embeddings of tokens are stored in it; GRU stays fp32.

    What an LSTM reads is quantised as it comes (onnxruntime's DynamicQuantizeLSTM), so that its ranges need no calibration.

    U8 activations, not onnxruntime's default S8: with those a residual network's convolutions do not fuse and run slower
    than in fp32 (1.77 against 0.54 ms). Weights are in [-64, 64], so that a pair of products, at most 255 (64 + 64) = 32,640, fits
    the 16 bits in which onnxruntime's kernels for AVX2 and AVX-512 without VNNI add them (VPMADDUBSW saturates). Unsigned weights
    need no such care, but take 0.030 where these take 0.022 ms. The 8th bit is worth little: on three networks of digits the
    logits' relative error is 0.020 with 7 bits and 0.015 with 8, the accuracy within one of 597 images.
    """

    side = "file"
    calibrates = True
    elsewhere = 0.05

    def plan(self, subject: Subject) -> Plan:
        """The settings; calibration itself runs in `rewrite`, on the feeds of a file that does not exist yet."""
        options = self.options
        how = "per channel" if options.per_channel else "per tensor"
        log = f"INT8 {how}, U8 activations by {options.calibration} over up to {options.samples} samples"
        if options.mode == "dynamic":
            log = f"INT8 {how}, activations quantised as they come"
        safe = "weights in 7 bits: no sum overflows 16 bits, so that every processor gives the same answers"
        bold = "weights in 8 bits: on x86 processors without VNNI sums may overflow 16 bits, and answers be wrong"
        return Plan(options.model_dump(), log=(log, safe if options.reduce_range else bold))

    def apply(self, model: Model, plan: Plan) -> Model:
        """A copy that trains as it will be quantised, activations over a batch's range. Which layers stay fp32 for what validation
        says of a file is not known yet, nor whether `auto` is dynamic; their order is that in which the network declares them.
        """
        asked = self.options.model_copy(update=dict(plan.edits))

        def how(layers: Sequence[Layer]) -> list[Round | None]:
            fp32 = {*_kept([each.path for each in layers if not each.is_table], asked)}
            return [None if each.path in fp32 else _round_of(each, asked) for each in layers]

        return simulated(model, how, activations=True)

    def rewrite(self, file: Path, plan: Plan, feeds: Iterable[Mapping[str, Any]]) -> None:
        """Raise UserError when there is nothing to calibrate with, RefusedError where onnxruntime has no INT8 form of the file."""
        asked = self.options.model_copy(update=dict(plan.edits))
        mode = asked.mode
        with quiet(), tempfile.TemporaryDirectory(prefix=f".{file.stem}-", dir=file.parent) as folder:
            work = Path(folder)
            model = ready(file, work / "ready.onnx", asked.per_channel)
            if mode == "auto" and not _is_sequential(model):
                mode = "static"
            if mode == "dynamic":
                made = _dynamic(model, asked, work, "dynamic")
            else:
                rows = _rows(feeds, asked.samples)
                made = _static(model, asked, rows, work, self, self.judge if mode == "static" else None)
                if mode == "auto":
                    both = {"static": made, "dynamic": _dynamic(model, asked, work, "dynamic")}
                    name, why, lost = better(file, both, rows, work, self.judge)
                    self.note(why)
                    made = both[name]
                    if self.judge is not None and not self.judge.allows(lost) and asked.mixed:
                        mixed, tried = _static(model, asked, rows, work, self, self.judge), work / "mixed.onnx"
                        save_onnx(mixed, tried)
                        stays = name == "dynamic" and self.judge.lost(tried) >= lost
                        if stays:
                            self.note(f"dynamic all the same: it loses {lost:.4g}")
                        made = made if stays else mixed
            save_onnx(made, file)


def _kept(layers: Sequence[str], asked: Int8Options) -> list[str]:
    """Those that stay fp32 at both ends, of all in order: in the file, and where it trains as quantised."""
    return [*(layers[:1] if asked.keep_first else ()), *(layers[-1:] if asked.keep_last else ())]


def _limit(asked: Int8Options) -> int:
    """The largest integer of a layer's weight."""
    return LIMIT if asked.reduce_range else 127


def _round_of(layer: Layer, asked: Int8Options) -> Round | None:
    """As the file stores the weight: a scale for each output, of a table for each column; None = in fp32."""
    if layer.is_table:
        return None if asked.keep_first else to_limit(127, 1 if asked.per_channel else None)
    if asked.mode == "dynamic" and not isinstance(layer.module, nn.Linear):
        return None
    return to_limit(_limit(asked), int(layer.is_transposed) if asked.per_channel else None)


def _static(
    model: Any, asked: Int8Options, rows: Sequence[Row], work: Path, told: Compressor[Any], judge: Judge | None
) -> Any:
    """QDQ with the ranges that the samples had; a LSTM is quantised as it reads. `judge`: by whom layers go back to fp32."""
    model = type(model).FromString(model.SerializeToString())
    if asked.equalize and not asked.per_channel:
        told.note("nothing is equalised: equalize needs per_channel")
    elif asked.equalize:
        told.note(f"{equalized(model, rows)} pairs of convolutions equalised")
    layers = [node.name for node in model.graph.node if _is_layer(node, model)]
    layers_only = _layers_only(model, asked.operators)
    weights = {each.name for each in model.graph.initializer}
    tables = [node.name for node in model.graph.node if node.op_type == "Gather" and node.input[0] in weights]
    kept = tables + _kept(layers, asked)
    shifts: Mapping[str, Any] = {}
    if asked.correct_bias:
        limit = _limit(asked)
        shifts = bias_shifts(model, rows, limit, [name for name in layers if name not in kept], asked.per_channel)
    setting = _Setting(asked, layers_only, _ranges(model, rows, asked.calibration, layers_only), rows, work, shifts)

    def without(some: Sequence[str]) -> Any:
        found = _quantized(model, setting, [*kept, *some])
        if any(node.op_type == "LSTM" for node in found.graph.node):
            found = _dynamic(found, asked, work, "lstm", ("LSTM",))
        return _finished(found, asked)

    def free() -> Layers:
        names = [name for name in layers if name not in kept]
        return Layers(model, names, lambda name: _quantized(model, setting, (), [name]), without)

    if asked.keep_sensitive:
        worst = most_sensitive(free(), rows, work, told)[: asked.keep_sensitive]
        kept += worst
        told.note(f"in fp32, as the most sensitive: {', '.join(worst)}")
    if judge is None or not asked.mixed or len(free().names) < 2:
        return without(())
    return mixed(free(), rows, work, told, judge)


@dataclass(frozen=True)
class _Setting:
    """What every static quantisation of one model has in common.

    Args:
        shifts: node -> what is added to its bias where it is quantised: one that stays fp32 lacks nothing.
    """

    asked: Int8Options
    layers_only: bool
    ranges: Mapping[str, tuple[float, float]]
    rows: Sequence[Row]
    work: Path
    shifts: Mapping[str, Any]


def _ranges(model: Any, rows: Sequence[Row], method: Method, layers_only: bool) -> dict[str, tuple[float, float]]:
    """Of every activation that may be quantised. minmax is onnxruntime's own business, but for what it takes the wrong range of."""
    if method == "minmax":
        return {name: range_of(values, method) for name, values in observed(model, rows, _cut_off(model)).items()}
    from onnx import TensorProto

    typed = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    floats = {each.name for each in typed if each.type.tensor_type.elem_type == TensorProto.FLOAT}
    floats -= {each.name for each in model.graph.initializer}
    nodes = [node for node in model.graph.node if not layers_only or node.op_type in WEIGHTED]
    names = dict.fromkeys(name for node in nodes for name in (*node.input, *node.output) if name in floats)
    return {name: range_of(values, method) for name, values in observed(model, rows, list(names)).items()}


def _cut_off(model: Any) -> list[str]:
    """Outputs that a Relu or Clip reads: where nothing else in the graph does, onnxruntime takes the range behind it for theirs."""
    answers = {each.name for each in model.graph.output}
    return list(
        dict.fromkeys(
            node.input[0] for node in model.graph.node if node.op_type in ("Relu", "Clip") and node.input[0] in answers
        )
    )


def _quantized(model: Any, setting: _Setting, kept: Sequence[str], alone: Sequence[str] = ()) -> Any:
    """Quantised without the nodes in `kept`; with `alone`, nothing but those."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    asked, work = setting.asked, setting.work
    chosen = {name: shift for name, shift in setting.shifts.items() if name not in kept and name in (alone or [name])}
    save_onnx(shifted(model, chosen), work / "static.onnx")
    rows = setting.rows[:1] if setting.ranges and asked.calibration != "minmax" else setting.rows
    overrides = {
        name: [{"rmin": np.float32(low), "rmax": np.float32(high)}]
        for name, (low, high) in setting.ranges.items()
        if high > low
    }
    with _theirs():
        quantize_static(
            str(work / "static.onnx"),
            str(work / "made.onnx"),
            _Reader(rows, read_inputs(model)),
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


def _dynamic(model: Any, asked: Int8Options, work: Path, name: str, operators: Sequence[str] = DYNAMIC) -> Any:
    """Weights in INT8, activations quantised as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    source, made = work / f"{name}-in.onnx", work / f"{name}.onnx"
    save_onnx(model, source)
    layers = [node.name for node in model.graph.node if _is_layer(node, model)]
    with _theirs():
        quantize_dynamic(
            str(source),
            str(made),
            op_types_to_quantize=list(operators),
            per_channel=asked.per_channel,
            reduce_range=asked.reduce_range,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[*_kept(layers, asked), *_stacked(model)],
            extra_options={"MatMulConstBOnly": True},
        )
    found = read_onnx(made)
    return found if operators is not DYNAMIC else _finished(found, asked)


def _stacked(model: Any) -> list[str]:
    """Products with several matrices at once, which onnxruntime writes no dynamic form of that runs."""
    many = {each.name for each in model.graph.initializer if len(each.dims) > 2}
    return [node.name for node in model.graph.node if node.op_type == "MatMul" and many & {*node.input}]


@contextmanager
def _theirs() -> Iterator[None]:
    """Raise RefusedError for what onnxruntime's quantiser cannot write."""
    try:
        yield
    except Exception as error:  # it raises whatever its parts do
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise RefusedError(f"onnxruntime's quantiser fails: {reason}") from error


def _finished(model: Any, asked: Int8Options) -> Any:
    if not asked.keep_first:
        quantize_embeddings(model, asked.per_channel)
    anonymous(model)
    del model.graph.value_info[:]
    return model


def _is_sequential(model: Any) -> bool:
    """A transformer or a recurrent network: dynamic quantisation may be better."""
    return bool({node.op_type for node in model.graph.node} & {"LSTM", "LayerNormalization", "Softmax"})


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


def _rows(feeds: Iterable[Mapping[str, Any]], samples: int) -> list[dict[str, Any]]:
    """One sample a feed, at most `samples`."""
    rows = []
    for feed in feeds:
        for at in range(len(next(iter(feed.values()), ()))):
            rows.append({name: np.ascontiguousarray(value[at : at + 1]) for name, value in feed.items()})
            if len(rows) == samples:
                return rows
    if not rows:
        raise UserError("no calibration samples", expected="at least one training sample to calibrate INT8 with")
    return rows


def _layers_only(model: Any, operators: str) -> bool:
    """A transformer's residual stream does not fit 8 bits: ViT-tiny 0.70 relative error with it, 0.06 without, equally fast."""
    kinds = {node.op_type for node in model.graph.node}
    return operators == "layers" or (operators == "auto" and bool(kinds & {"LayerNormalization", "Softmax"}))


def _is_layer(node: Any, model: Any) -> bool:
    weights = {each.name for each in model.graph.initializer}
    return node.op_type in WEIGHTED and any(name in weights for name in node.input)


@contextmanager
def quiet() -> Iterator[None]:
    """onnxruntime's quantisation tools print, set the root logger's level and log advice to it: none is the user's business."""
    root = logging.getLogger()
    level, disabled = root.level, root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)
        root.setLevel(level)
