"""`kdsearch compress MODEL`: a network of one's own pruned, quantised and verified, without a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kdsearch.cli.options import AllowCode, Json, option
from kdsearch.limits import EPOCHS, WHOLE

_TARGETS = "params=0.7 or macs=0.7, the share that stays, or latency=1.5ms in onnxruntime here"


def compress(
    model: Annotated[
        str,
        typer.Argument(
            help="timm:NAME[,key=value], torchvision:NAME, package.module:callable, FILE.pt2 (these two with --allow-code) "
            "or FILE.onnx.",
            metavar="MODEL",
        ),
    ],
    out: Annotated[Path, option("--out", help="Folder for files and cards.")],
    data: Annotated[
        str | None, option("--data", help="A data set's name, a .npz file or a folder of images; without, no quality.")
    ] = None,
    normalize: Annotated[str, option("--normalize", help="Of its images: auto, imagenet or none.")] = "auto",
    input_shape: Annotated[str, option("--input-shape", help="3,224,224, where neither data nor network say it.")] = "",
    weights: Annotated[Path | None, option("--weights", help="FILE.safetensors for the network.")] = None,
    teacher: Annotated[
        str | None, option("--teacher", help="What recovery learns from, named as MODEL is; default: MODEL itself.")
    ] = None,
    teacher_weights: Annotated[
        Path | None, option("--teacher-weights", help="FILE.safetensors for the teacher.")
    ] = None,
    prune: Annotated[
        str, option("--prune", help=f"{_TARGETS}; after commas other options of the pruner, importance=taylor.")
    ] = "",
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
        str, option("--input", help="What files of images read: prepared floats, pixels (uint8) or any_size.")
    ] = "prepared",
    answers: Annotated[
        str, option("--output", help="What files that score classes answer: raw, probabilities or class.")
    ] = "raw",
    form: Annotated[
        list[str] | None, option("--format", help="onnx-fp32, onnx-int8, onnx-int4; may be repeated.")
    ] = None,
    calibration: Annotated[
        str, option("--calibration", help="data, or random: noise, where there are no data.")
    ] = "data",
    max_drop: Annotated[
        float | None, option("--max-drop", help="How much worse than fp32; default: 0.01 of a share.")
    ] = None,
    seed: Annotated[int, option("--seed", min=0, max=WHOLE, help="Of splits, noise and recovery.")] = 0,
    allow_code: AllowCode = None,
    as_json: Json = False,
) -> None:
    """Prune, quantise and verify a network of your own. Exit code 3 where a file is refused."""
    from kdsearch.cli.output import answer
    from kdsearch.errors import StudyError

    if calibration not in ("data", "random"):
        raise StudyError(f"got '{calibration}'", path="--calibration", expected="data or random")
    shape, target = _shape(input_shape), _target(prune)

    def run() -> dict[str, object]:
        from kdsearch.python.compressed import compress as of

        return of(
            model, out, data=data, normalize=normalize, input_shape=shape, weights=weights, teacher=teacher,
            teacher_weights=teacher_weights, prune=target, recover_epochs=recover_epochs, qat_epochs=qat_epochs,
            formats=form or ("onnx-fp32", "onnx-int8"), calibration="random" if calibration == "random" else "data",
            inside={"input": reads, "output": answers}, max_drop=max_drop, allow_code=tuple(allow_code or ()), seed=seed,
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
    """What stands first, and after commas further options of the pruner, `importance=taylor`."""
    if not text:
        return None
    first, *further = text.split(",")
    return {**_goal(first), **dict(_option(each) for each in further)}


def _goal(text: str) -> dict[str, float]:
    from kdsearch.errors import StudyError

    name, _, asked = text.partition("=")
    number = asked.removesuffix("ms") if name == "latency" else asked
    try:
        value = float(number)
    except ValueError:
        value = 0.0
    if name == "latency" and asked.endswith("ms") and 0 < value < float("inf"):
        return {"latency_ms": value}
    if name not in ("params", "macs") or not 0 < value <= 1:
        raise StudyError(f"got '{text}'", path="--prune", expected=_TARGETS)
    return {name: value}


def _option(text: str) -> tuple[str, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    from kdsearch.errors import StudyError

    name, equals, value = (each.strip() for each in text.partition("="))
    try:
        read = YAML(typ="safe").load(value)
    except YAMLError:
        read = None
    if not name or not equals or read is None:
        raise StudyError(f"got '{text}'", path="--prune", expected="an option of the pruner, such as importance=taylor")
    return name, read
