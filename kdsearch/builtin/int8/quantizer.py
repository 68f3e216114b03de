"""INT8: onnxruntime's static quantisation to QDQ, unsigned activations, signed weights, or its dynamic one where that is better."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from kdsearch.builtin.int8 import dynamic
from kdsearch.builtin.int8.choices import better, mixed, most_sensitive
from kdsearch.builtin.int8.options import Int8Options, ends_kept, limit_of
from kdsearch.builtin.int8.ready import ready
from kdsearch.builtin.int8.static import Setting, calibrated, layers_of
from kdsearch.builtin.simulated import Layer, Round, simulated, to_limit
from kdsearch.errors import UserError
from kdsearch.kinds import Compressor, Model, Plan, Subject
from kdsearch.kit.onnx import is_quantised, read_onnx, save_onnx

__all__ = ["Int8", "Int8Options"]


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
            fp32 = {*ends_kept([each.operator for each in layers if not each.is_table], asked)}
            return [None if each.operator in fp32 else _round_of(each, asked) for each in layers]

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
                rows = _rows(feeds, asked.samples) if asked.keep_sensitive else []
                layers = dynamic.layers(model, asked, work)
                worst = most_sensitive(layers, rows, work, self)[: asked.keep_sensitive] if rows else []
                made = dynamic.dynamic(model, asked, work, worst)
                self._tell(asked, worst)
            else:
                setting = calibrated(model, asked, _rows(feeds, asked.samples), work, self)
                if mode == "static":
                    self._tell(asked, setting.worst, setting.notes)
                    made = self._static(setting)
                else:
                    made = self._better(setting, model, file)
            if not is_quantised(made):
                self.note("nothing is in 8 bits: no operator reads a weight of fp32 that 8 bits hold")
            made.metadata_props.extend(read_onnx(file).metadata_props)  # what its owner wrote there
            save_onnx(made, file)

    def _static(self, setting: Setting) -> Any:
        """With layers back in fp32 where validation asks for it."""
        layers = layers_of(setting)
        if self.judge is None or not setting.asked.mixed or len(layers.names) < 2:
            return setting.first
        return mixed(layers, setting.rows, setting.work, self, self.judge)

    def _better(self, setting: Setting, model: Any, file: Path) -> Any:
        """Static or dynamic; one that loses too much gives way to a static one with layers in fp32, if that loses less."""
        asked, rows, work = setting.asked, setting.rows, setting.work
        both = {"static": setting.first, "dynamic": dynamic.dynamic(model, asked, work, setting.worst)}
        name, why, lost = better(file, both, rows, work, self.judge)
        self.note(why)
        made = both[name]
        if self.judge is not None and not self.judge.allows(lost) and asked.mixed:
            other, tried = self._static(setting), work / "mixed.onnx"
            save_onnx(other, tried)
            if name == "dynamic" and self.judge.lost(tried) >= lost:
                self.note(f"dynamic all the same: it loses {lost:.4g}")
            else:
                name, made = "static", other
        self._tell(asked, setting.worst, setting.notes if name == "static" else None)
        return made

    def _tell(self, asked: Int8Options, worst: Sequence[str], static: Sequence[str] | None = None) -> None:
        """What holds of the file that stays. `static`: what holds of static ones; None = it is a dynamic one."""
        if worst:
            self.note(f"in fp32, as the most sensitive: {', '.join(worst)}")
        for each in static or ():
            self.note(each)
        if static is None and (asked.equalize or asked.correct_bias):
            self.note("no channels equalised, no biases corrected: a dynamic file leaves convolutions in fp32")


def _round_of(layer: Layer, asked: Int8Options) -> Round | None:
    """As the file stores the weight: a scale for each output, of a table for each column; None = in fp32."""
    if layer.is_table:
        return None if asked.keep_first else to_limit(127, 1 if asked.per_channel else None)
    if isinstance(layer.module, (nn.GRU, nn.RNN)) or (asked.mode == "dynamic" and not _is_dynamic(layer)):
        return None
    return to_limit(limit_of(asked), int(layer.is_transposed) if asked.per_channel else None)


def _is_dynamic(layer: Layer) -> bool:
    return layer.is_matrix or isinstance(layer.module, nn.LSTM)


def _is_sequential(model: Any) -> bool:
    """A transformer or a recurrent network: dynamic quantisation may be better."""
    return bool({node.op_type for node in model.graph.node} & {"LSTM", "LayerNormalization", "Softmax"})


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
