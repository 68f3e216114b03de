"""`kdsearch compress MODEL`: a network of one's own pruned, quantised and verified, without a study."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from kdsearch.cli.options import AllowCode, Json, option, seed_option
from kdsearch.limits import EPOCHS

_OPTIONS = {"--prune": "importance=taylor", "--data": "image=x", "--format": "block=64", "--output": "iou=0.6"}
_TARGETS = "params=0.7 or macs=0.7, the share that stays, or latency=1.5ms in onnxruntime here"


def compress(
    model: Annotated[
        str,
        typer.Argument(
            help="timm:NAME[,key=value], torchvision:NAME, package.module:callable, file.py:callable, FILE.pt2 (these three with "
            "--allow-code) or FILE.onnx.",
            metavar="MODEL",
        ),
    ],
    out: Annotated[Path, option("--out", metavar="DIR", help="Folder for files and cards.")],
    data: Annotated[
        str | None,
        option(
            "--data",
            metavar="DATA",
            help="A data set's name, a .npz file or a folder of images; after commas its options, own.npz,image=x. Without, no "
            "quality.",
        ),
    ] = None,
    normalize: Annotated[
        str,
        option(
            "--normalize",
            metavar="HOW",
            help="What MODEL was trained on: imagenet, none, -1..1 or 0..255; auto: what it says itself, or tried on validation.",
        ),
    ] = "auto",
    input_shape: Annotated[
        str,
        option(
            "--input-shape",
            metavar="SIZES",
            help="3,224,224, where neither data nor network say it, or a file leaves it open.",
        ),
    ] = "",
    weights: Annotated[
        Path | None, option("--weights", metavar="FILE", help="FILE.safetensors for the network.")
    ] = None,
    teacher: Annotated[
        str | None,
        option(
            "--teacher", metavar="MODEL", help="What recovery learns from, named as MODEL is; default: MODEL itself."
        ),
    ] = None,
    teacher_weights: Annotated[
        Path | None, option("--teacher-weights", metavar="FILE", help="FILE.safetensors for the teacher.")
    ] = None,
    prune: Annotated[
        str,
        option(
            "--prune",
            metavar="TARGET",
            help=f"{_TARGETS}; after commas other options of the pruner, importance=taylor.",
        ),
    ] = "",
    pruner: Annotated[
        str,
        option(
            "--pruner", metavar="NAME", help="channels, or another one that is installed, such as hierarchical_prune."
        ),
    ] = "channels",
    recover_epochs: Annotated[
        int, option("--recover-epochs", min=0, max=EPOCHS, help="Of distillation after pruning, with data.")
    ] = 5,
    qat_epochs: Annotated[
        int,
        option(
            "--qat-epochs",
            min=0,
            max=EPOCHS,
            help="Of training as quantised, where a file loses too much on validation.",
        ),
    ] = 0,
    reads: Annotated[
        str,
        option(
            "--input", metavar="HOW", help="What files of images read: prepared floats, pixels (uint8) or any_size."
        ),
    ] = "prepared",
    answers: Annotated[
        str,
        option(
            "--output",
            metavar="WHAT",
            help="What files answer: raw; probabilities or class, where the network scores classes; boxes, after non-maximum "
            "suppression; after commas options of this, boxes,scores=sigmoid,iou=0.6.",
        ),
    ] = "raw",
    form: Annotated[
        list[str] | None,
        option(
            "--format",
            metavar="FORMAT",
            help="onnx-fp32, onnx-int8, onnx-int4, or of another exporter; after commas options of the quantizer, "
            "onnx-int4,block=64; may be repeated.",
        ),
    ] = None,
    calibration: Annotated[
        str,
        option(
            "--calibration",
            metavar="DATA",
            help="What quantizers see: data, random (noise), or, with no labels, a folder of images or a .npz of inputs as MODEL "
            "reads them; without --data files are compared on these, too.",
        ),
    ] = "data",
    max_drop: Annotated[
        float | None,
        option("--max-drop", metavar="DROP", help="How much worse than fp32; default: 0.01 of a share, 1 % of others."),
    ] = None,
    seed: Annotated[int, seed_option("Of splits, noise and recovery.")] = 0,
    allow_code: AllowCode = None,
    as_json: Json = False,
) -> None:
    """Prune, quantise and verify a network of your own. Exit code 3 where a file is refused."""
    from kdsearch.cli.output import answer
    from kdsearch.errors import StudyError

    shape, target = _shape(input_shape), _target(prune)
    named, of_data = _with_options(data, "--data") if data is not None else (None, {})
    formats: dict[str, dict[str, Any]] = {}
    for each in form or ("onnx-fp32", "onnx-int8"):
        name, options = _with_options(each, "--format")
        if formats.setdefault(name, options) != options:
            raise StudyError(f"got '{name}' twice", path="--format", expected="each once")
    answers, of_boxes = _with_options(answers, "--output")
    asked = {"input": (reads, "prepared"), "output": (answers, "raw")}
    inside = {name: value for name, (value, default) in asked.items() if value != default}
    inside |= of_boxes

    def run() -> dict[str, object]:
        from kdsearch.python.compressed import compress as of

        return of(
            model, out, data=named, data_options=of_data, normalize=normalize, input_shape=shape, weights=weights, teacher=teacher,
            teacher_weights=teacher_weights, prune=target, pruner=pruner, recover_epochs=recover_epochs, qat_epochs=qat_epochs,
            formats=formats, calibration=calibration,
            inside=inside, max_drop=max_drop, allow_code=tuple(allow_code or ()), seed=seed,
        )  # fmt: skip

    answer(run, as_json)


def _shape(text: str) -> tuple[int, ...] | None:
    from kdsearch.errors import StudyError

    if not text:
        return None
    try:
        sizes = tuple(int(each) for each in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise StudyError(f"got '{text}'", path="--input-shape", expected="such as 3,224,224")
    return sizes


def _target(text: str) -> dict[str, Any] | None:
    """A target, and after commas others and further options of the pruner: `macs=0.7,importance=taylor,exclude=[head]`."""
    from kdsearch.errors import StudyError

    if not text:
        return None
    found: dict[str, Any] = {}
    for at, part in enumerate(_parts(text)):
        name, _, value = (each.strip() for each in part.partition("="))
        is_target = at == 0 or name == "latency"
        key, read = _goal(part) if is_target else (name, _value(name, value, part, "--prune"))
        if key in found:
            raise StudyError(f"got '{key}' twice", path="--prune", expected="each once")
        found[key] = read
    return found


def _parts(text: str) -> list[str]:
    """What commas outside of brackets part."""
    found, depth = [""], 0
    for each in text:
        depth += (each in "[{") - (each in "]}")
        if each == "," and depth <= 0:
            found.append("")
        else:
            found[-1] += each
    return found


def _goal(text: str) -> tuple[str, float]:
    from kdsearch.errors import StudyError

    name, _, asked = text.partition("=")
    number = asked.removesuffix("ms") if name == "latency" else asked
    try:
        value = float(number)
    except ValueError:
        value = 0.0
    if name == "latency" and asked.endswith("ms") and 0 < value < float("inf"):
        return "latency_ms", value
    if name not in ("params", "macs") or not 0 < value <= 1:
        raise StudyError(f"got '{text}'", path="--prune", expected=_TARGETS)
    return name, value


def _with_options(text: str, path: str) -> tuple[str, dict[str, Any]]:
    """`NAME,key=value,...`: the name, which may be a file's with commas in it, and the options."""
    from kdsearch.errors import StudyError

    if os.path.exists(text):  # of a name that no file system takes, too
        return text, {}
    first, *rest = _parts(text)
    found: dict[str, Any] = {}
    for part in rest:
        name, _, value = (each.strip() for each in part.partition("="))
        if name in found:
            raise StudyError(f"got '{name}' twice", path=path, expected="each once")
        found[name] = _value(name, value, part, path)
    return first, found


def _value(name: str, text: str, whole: str, path: str) -> Any:
    """As `--set` reads it."""
    from kdsearch.errors import StudyError
    from kdsearch.store.inputs import is_text
    from kdsearch.study.load import parse

    if not name or not text or not is_text(text):
        raise StudyError(f"got '{whole}'", path=path, expected=f"an option, such as {_OPTIONS[path]}")
    try:
        return parse(f"value: {text}".encode()).raw["value"]
    except StudyError as error:
        raise StudyError(f"got '{whole}': {error.problem}", path=path, expected="a value as in YAML") from None
