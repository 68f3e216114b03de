"""A verified file of any network, with its card and the program that runs it, as a study would leave them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from kdsearch.deploy.parity import module_call, numbers
from kdsearch.engine.live_pixels import made_of_pixels, preprocessing
from kdsearch.errors import DataError, StudyError
from kdsearch.host import Host
from kdsearch.kinds import IO, Batch, Exporter, Graph, Model
from kdsearch.limits import NAME, NAME_IN_WORDS
from kdsearch.python.networks import is_choice
from kdsearch.python.pieces import Named, as_model, capability, io_of, on_cpu
from kdsearch.python.verified import Source, verified_file
from kdsearch.report.card import KIND
from kdsearch.report.predict import is_predict, predict_text
from kdsearch.stages.cards import PREDICT, card_name
from kdsearch.stages.quality import DEFAULT_AGREEMENT
from kdsearch.store.files import write_bytes
from kdsearch.study.schema import MeanStd
from kdsearch.training.normalized import NAMED, asked


@dataclass(frozen=True)
class Exported:
    """A file and how it compares with its network.

    Args:
        parity_max_abs: largest absolute difference of any logit. top1_agreement: share of equal argmax, over `samples`.
        weight_share: width in bits -> share of the fp32 graph's weights that are stored so.
        quantization: what the quantizer says of the file, such as the processors that its answers hold for; nothing of fp32.
        card: what the file is and how it is fed, as JSON beside it. predict: the program that runs it; None where there is none.
        files: what else lies beside it.
    """

    file: Path
    bytes: int
    parity_max_abs: float
    top1_agreement: float | None
    weight_share: Mapping[str, float]
    card: Path
    predict: Path | None = None
    quantization: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    def __repr__(self) -> str:
        agree = "" if self.top1_agreement is None else f", {self.top1_agreement:.1%} of the answers agree"
        shares = ", ".join(
            f"{share:.1%} of the weights at {bits} bit" for bits, share in self.weight_share.items() if share
        )
        differs = f"logits differ by {self.parity_max_abs:.2g} at most"
        return f"<Exported {self.file}: {self.bytes:,} bytes, {differs}{agree}{f'; {shares}' if shares else ''}>"


def export(
    net: nn.Module | Model,
    samples: Tensor,
    file: Path | str,
    *,
    quantize: Named | None = None,
    exporter: Named = "onnx",
    parity: float = 1e-4,
    min_agreement: float = DEFAULT_AGREEMENT,
    labels: Sequence[str] | None = None,
    normalize: str | Mapping[str, Any] | None = None,
    files: Mapping[str, bytes] | None = None,
) -> Exported:
    """Write a network, open the file in its runtime, and compare both on `samples`, at several batch sizes.

    Beside `net.onnx` lie its card `net.json` and `predict.py`, which answers for image files: where `labels` are given, images are
    grey or RGB, and it is known how they are prepared, so of samples that are no pixels with `normalize` alone.

    Args:
        net: from images to logits; runs in eval mode, on the CPU (a copy where it lies elsewhere).
        samples: (B, C, H, W): for comparison, and for calibration where the quantizer calibrates.
        quantize: such as "int8", or `{"use": "int4", "options": {"block": 16}}`; None = fp32.
        parity: largest difference of the fp32 file, of which a quantised one is made, as a share of the answers' standard
            deviation; what torch's own fp32 differs from its fp64 by is no fault of a file.
        min_agreement: least share of the samples for which the file scores the same class highest.
        labels: names of the classes, for card, file and `predict.py`.
        normalize: what made `samples` of pixels in 0..1: "imagenet", "none" or `{"mean": ..., "std": ...}`. None: they are
            pixels where they lie in 0..1 or 0..255, and else nobody knows.
        files: name -> content, of what goes along with the network, such as names or a table of its own: each is written beside
            it as `<file's stem>-<name>`, and the card says which they are.

    Raises:
        RefusedError: the network answers NaN, or the file fails or is too far off; nothing is written, and an older file goes.
        StudyError, DataError: the target is a folder, or another file lies where card, program or files belong; no samples, or
            such as the network does not read; labels or mean and std that do not fit them.
    """
    if not isinstance(file, str | Path):
        raise StudyError(f"got {type(file).__name__}", path="file", expected="a path; the order is net, samples, file")
    target = Path(file)
    if target.is_dir():
        raise StudyError("is a folder", file=target, expected="a file's name")
    io, samples, net = _io(net, samples), samples.detach().cpu(), on_cpu(net)
    about = _about(io, samples, labels, normalize)
    made: Exporter[Any] = capability("exporter", exporter)[1]
    if not made.is_onnx and target.suffix != made.suffix:
        raise StudyError(f"got '{target.name}'", path="file", expected=f"a name with the ending {made.suffix}")
    if quantize is not None and (rewrites := capability("quantizer", quantize)[1].rewrites) != made.suffix:
        problem = f"rewrites '{rewrites}' files, and the file is of '{made.suffix}'"
        raise StudyError(problem, path="quantize", expected=f"None, or a quantizer of '{made.suffix}' files")
    told = about["preprocessing"]
    is_prepared = bool(told["mean"]) and bool(told["std"]) and told["channels"] in (1, 3)
    beside = _beside(target, bool(about["labels"]) and made.is_onnx and is_prepared)
    along = _along(target, files or {}, [*made.parts(target), *beside.values()])
    model = as_model(net, io, "network")
    graph = Graph(model.module, io.inputs, io.outputs)
    numbers(module_call(graph), [samples], io.inputs, io.outputs)
    batch = Batch(tuple(str(i) for i in range(len(samples))), {"image": samples})
    feeds = [{"image": rows.numpy()} for rows in torch.split(samples, 32)]
    beside_it = tuple(place.name for place in along)
    source = Source(model, io, made, batch, feeds, about, along=beside_it, opened_by=_installed_as(exporter))
    form = exporter if isinstance(exporter, str) else made.suffix.strip(".")
    found, row = verified_file(source, target, quantize, parity, min_agreement, form)
    for place, content in along.items():
        write_bytes(place, content)
    if "predict" in beside:
        write_bytes(beside["predict"], predict_text(target.name).encode())
    else:
        _remove_stale_program(target)
    return Exported(
        target,
        row["bytes"],
        found.max_abs,
        found.top1_agreement,
        row["weight_share"],
        beside["card"],
        beside.get("predict"),
        tuple(row["quantization"]),
        tuple(along),
    )


def _io(net: nn.Module | Model, samples: Tensor) -> IO:
    """What the file reads and answers. Raise DataError for samples of a type that no file reads."""
    io = io_of(net, samples)
    if samples.dtype == torch.bfloat16:
        raise DataError("got bfloat16", path="samples", expected="float32, float16, float64 or integers")
    (output,) = io.outputs
    return io if is_choice(output) else IO(io.inputs, (replace(output, kind="vector"),))


def _installed_as(exporter: Named) -> str:
    """The name that opens the file later; of what no plugin registers, where it is defined: `verify` does not import that."""
    if isinstance(exporter, str):
        return exporter
    if isinstance(exporter, Mapping):
        return str(exporter["use"])
    cls = exporter if isinstance(exporter, type) else type(exporter)
    place = f"{cls.__module__}:{cls.__qualname__}"
    return next((each.name for each in Host.load().entries("exporter") if each.entry.target == place), place)


def _about(
    io: IO, samples: Tensor, labels: Sequence[str] | None, normalize: str | Mapping[str, Any] | None
) -> dict[str, Any]:
    """Labels and preprocessing, checked."""
    classes = io.outputs[0].shape[0]
    names = [] if labels is None else [str(each) for each in labels]
    if labels is not None and len(names) != classes:
        raise StudyError(f"{len(names)} labels", path="labels", expected=f"{classes}, one a class")
    told = preprocessing(io.inputs[0], (float(samples.min()), float(samples.max())))
    if normalize is not None:
        wanted = asked(_normalize(normalize))
        assert wanted is not None
        told = made_of_pixels(told, wanted.of(told["channels"]), "normalize")
    return {"labels": names, "preprocessing": told}


def _normalize(value: str | Mapping[str, Any]) -> str | MeanStd:
    expected = f"{', '.join(NAMED)} or {{'mean': ..., 'std': ...}}"
    if isinstance(value, str):
        if value not in NAMED:
            raise StudyError(f"got '{value}'", path="normalize", expected=expected)
        return value
    try:
        return MeanStd(**{name: _listed(each) for name, each in value.items()})
    except (AttributeError, TypeError, ValidationError):
        raise StudyError(f"got {value!r}"[:200], path="normalize", expected=expected) from None


def _listed(value: Any) -> Any:
    """As JSON has it, of a tuple, an array or a tensor."""
    return list(value) if isinstance(value, tuple) else value.tolist() if hasattr(value, "tolist") else value


def _beside(target: Path, runs: bool) -> dict[str, Path]:
    """Where card and program go. Raise StudyError where something lies there that is neither."""
    found = {"card": target.with_name(card_name(target.name))}
    if runs:
        found["predict"] = target.with_name(PREDICT)
    for what, place in found.items():
        if place == target or (place.exists() and not _is_ours(what, place)):
            problem = "is in the way of the file's card" if what == "card" else "is in the way of the program beside it"
            raise StudyError(problem, file=place, fix="Move it, or write into another folder.")
    return found


def _remove_stale_program(target: Path) -> None:
    """Of the program beside it that an earlier call wrote for a file of this name."""
    place = target.with_name(PREDICT)
    if place.is_file() and place.read_bytes() == predict_text(target.name).encode():
        place.unlink()


def _along(target: Path, files: Mapping[str, bytes], taken: Sequence[Path]) -> dict[Path, bytes]:
    """Where the caller's files go. Raise StudyError for a name that is none, and where something else lies there."""
    found: dict[Path, bytes] = {}
    ours = _named_by(target.with_name(card_name(target.name)))
    for name, content in files.items():
        if not re.fullmatch(NAME, name) or not isinstance(content, bytes):
            problem = f"'{name}' is {type(content).__name__}" if re.fullmatch(NAME, name) else f"got '{name}'"
            raise StudyError(problem, path="files", expected=f"bytes by name; in a name {NAME_IN_WORDS}")
        place = target.with_name(f"{target.stem}-{name}")
        is_other = place.exists() and place.name not in ours and (place.is_dir() or place.read_bytes() != content)
        if place in taken or is_other:
            raise StudyError(
                f"is in the way of '{name}'",
                file=place,
                fix="Move it, write into another folder, or name the file otherwise.",
            )
        found[place] = content
    return found


def _named_by(card: Path) -> list[str]:
    """What a card of ours names beside its file, which may be written anew."""
    try:
        return list(json.loads(card.read_text(encoding="utf-8"))["facts"]["product"]["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _is_ours(what: str, place: Path) -> bool:
    try:
        text = place.read_text(encoding="utf-8")
        return is_predict(text) if what == "predict" else json.loads(text)["kind"] == KIND
    except (OSError, ValueError, KeyError, TypeError):
        return False
