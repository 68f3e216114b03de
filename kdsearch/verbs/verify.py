"""Whether an exported file still holds what its card says: all checks again, from the two files, and data where they are given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from kdsearch.deploy.files import open_session
from kdsearch.deploy.verify import Check, runner, verified
from kdsearch.errors import ArtifactError, DataError, KdsearchError, RefusedError, UserError, one_of
from kdsearch.kinds import Exporter
from kdsearch.kit.arrays import read_arrays
from kdsearch.report.card import KIND
from kdsearch.stages.cards import card_name
from kdsearch.store.files import read_json
from kdsearch.store.inputs import lies
from kdsearch.verbs.verify_study import of_study


@with_config(ConfigDict(extra="allow"))
class _Tensor(TypedDict):
    name: str
    shape: list[int | str]
    dtype: NotRequired[str]


@with_config(ConfigDict(extra="allow"))
class _Use(TypedDict, total=False):
    inputs: list[_Tensor]
    outputs: list[_Tensor]


@with_config(ConfigDict(extra="allow"))
class _Parity(TypedDict, total=False):
    torch_fp32_to_fp64: float | None


@with_config(ConfigDict(extra="allow"))
class _Card(TypedDict, total=False):
    """What of a card is looked at, where it is there."""

    use: _Use | None
    bounds: dict[str, float | None] | None
    parity: _Parity | None
    metrics: dict[str, Any] | None
    provenance: dict[str, Any] | None


SLACK = 0.005  # of a share, that a quality may be off on another processor


def verify(*, file: Path, data: Path | None = None, allow_code: tuple[str, ...] = ()) -> dict[str, Any]:
    """Every check and its outcome.

    Args:
        data: the study's folder or file, whose test split is asked, or a .npz file with an array for each input and `label`.

    Raises:
        ArtifactError: there is no file, or no card beside it.
        RefusedError: a check fails; `result` of the error has them all.
    """
    if not lies(file, error=ArtifactError):
        raise ArtifactError("there is no such file", file=file, expected="a file that kdsearch exported")
    if file.is_dir():
        expected = "a file that kdsearch exported, such as those in the `export` folder of a study"
        raise ArtifactError("is a folder", file=file, expected=expected)
    card = card_of(file)
    exporter = _exporter(card, file)
    checks = verified(file, card, exporter)
    if data is not None and all(each.ok for each in checks if not each.check.startswith("sha256")):
        checks.append(_quality(file, card, data, allow_code, exporter))
    elif data is not None:
        checks.append(Check("quality", False, "not measured: the file fails before"))
    differs = [each for each in checks if not each.ok]
    lines = [f"{'ok' if each.ok else 'DIFFERS':8} {each.check}: {each.said}" for each in checks]
    result = {
        "file": str(file),
        "card": str(file.with_name(card_name(file.name))),
        "verified": not differs,
        "checks": [each.as_json() for each in checks],
        "differs": [each.check for each in differs],
        "text": "\n".join(lines),
    }
    if differs:
        first = differs[0]
        error = RefusedError(
            f"is not what its card says: {', '.join(each.check for each in differs)} ({first.said})", file=file
        )
        error.result = result  # type: ignore[attr-defined]
        raise error
    return result


def card_of(file: Path) -> Mapping[str, Any]:
    """The card beside a file. Raise ArtifactError where there is none."""
    place = file.with_name(card_name(file.name))
    if not lies(place):
        raise ArtifactError("there is no card beside it", file=file, expected=f"{place.name}, as kdsearch wrote it")
    card: Mapping[str, Any] = read_json(place, _Card, "Export the file again.")
    if card.get("kind") != KIND:
        raise ArtifactError("is no card of kdsearch", file=place, path="kind", expected=KIND)
    return card


def _exporter(card: Mapping[str, Any], file: Path) -> Exporter[Any] | None:
    """What opens a file that is no ONNX, as its card names it; None = onnxruntime.

    Raises:
        PluginError: it is not installed, or lacks its extra.
    """
    if not (use := card.get("exporter")):
        return None
    from kdsearch.host import Host
    from kdsearch.study.schema import Use
    from kdsearch.training.materials import make

    made: Exporter[Any] = make(Host.load(), "exporter", Use(use=str(use), options={}), "exporter")
    if file.suffix != made.suffix:
        raise ArtifactError(
            f"is a part of what exporter '{use}' writes",
            file=file,
            expected=f"{file.with_suffix(made.suffix).name}, which is verified with it",
        )
    return made


def _quality(
    file: Path, card: Mapping[str, Any], data: Path, allow_code: tuple[str, ...], exporter: Exporter[Any] | None
) -> Check:
    told, is_arrays = (card.get("metrics") or {}).get("quality") or {}, data.suffix == ".npz"
    stated = None if told.get("value") is None else str(told.get("metric"))
    parts = _parts(card)
    if len(parts) > 1:
        problem = f"an answer takes {' and '.join(parts)} together, and one file alone is verified"
        raise UserError(
            problem, path="--data", expected="a file that answers by itself; without --data all but quality is checked"
        )
    if is_arrays and stated not in (None, "accuracy"):
        problem = f"the card states {stated}, and of arrays accuracy is measured"
        raise UserError(problem, path="--data", expected="the study's folder")
    found: tuple[str, float, int | None]
    try:
        by_study = partial(of_study, allow_code=allow_code, exporter=exporter, stated=stated)
        found = _of_arrays(file, card, data, exporter) if is_arrays else by_study(file, card, data)
    except KdsearchError as error:
        if isinstance(error, UserError):
            raise
        return Check("quality", False, f"not measured: {error.problem}")
    name, value, n = found
    said = f"{name} {value:.4f}" + (f" of {n:,}" if n else "")
    if stated is None:
        return Check("quality", True, f"{said}; the card states none")
    known = float(told["value"])
    gap = (known - value) * (1 if told.get("direction", "max") == "max" else -1)
    allowed = SLACK if told.get("unit") == "share" else SLACK * abs(known)
    return Check("quality", gap <= allowed, f"{said}; the card says {known:.4f}")


def _parts(card: Mapping[str, Any]) -> list[str]:
    """The files whose graphs give an answer together, as the card names them; empty where it names none."""
    facts = card.get("facts")
    product = facts.get("product") if isinstance(facts, Mapping) else None
    graphs = product.get("graphs") if isinstance(product, Mapping) else None
    return [str(each) for each in graphs.values()] if isinstance(graphs, Mapping) else []


def _of_arrays(
    file: Path, card: Mapping[str, Any], data: Path, exporter: Exporter[Any] | None
) -> tuple[str, float, int]:
    """Accuracy on arrays of the user's, named as the inputs are, and `label`."""
    arrays = read_arrays(data)
    kinds = {str(each["name"]): each for each in (card.get("use") or {}).get("inputs") or ()}
    if exporter is None:
        session = open_session(file)
        inputs = {each.name: each.shape for each in session.get_inputs()}
        first: Callable[[Mapping[str, Any]], list[Any]] = partial(session.run, None)
    else:
        run, inputs = runner(exporter, file, card), {name: each["shape"] for name, each in kinds.items()}

        def first(feeds: Mapping[str, Any]) -> list[Any]:
            return list(run(feeds).values())

    missing = [name for name in (*inputs, "label") if name not in arrays]
    if missing:
        raise DataError(f"no array '{missing[0]}'", file=data, expected=one_of([*inputs, "label"]))
    for name, shape in inputs.items():
        _check_sizes(name, arrays[name].shape, shape, data)
    labels = _labels(arrays["label"], {name: arrays[name] for name in inputs}, data)
    types = {name: np.dtype(str(kinds.get(name, {}).get("dtype", "float32"))) for name in inputs}
    for name, dtype in types.items():
        _check_whole(name, arrays[name], dtype, data)
    same = 0
    for at in range(0, len(labels), 32):
        feeds = {name: np.ascontiguousarray(arrays[name][at : at + 32]).astype(types[name]) for name in inputs}
        try:
            answer = first(feeds)[0]
        except Exception as error:  # whatever a runtime raises at a shape
            raise DataError(f"the file fails at these arrays: {str(error).splitlines()[0][:200]}", file=data) from error
        same += int((_classes(answer, data) == labels[at : at + 32]).sum())
    known = int((labels >= 0).sum())  # the classes of the others are not known
    return "accuracy", same / known, known


def _check_whole(name: str, array: np.ndarray[Any, Any], dtype: np.dtype[Any], data: Path) -> None:
    """Raise DataError where the file reads integers and the array has numbers that are none of them."""
    if dtype.kind not in "iu":
        return
    with np.errstate(invalid="ignore"):
        wrong = array[array.astype(dtype) != array]
    if wrong.size:
        least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
        problem = f"array '{name}' is {array.dtype} with numbers such as {wrong.flat[0]:g}, and the file reads {dtype}"
        raise DataError(problem, file=data, expected=f"whole numbers in {least}..{most}")


def _labels(
    label: np.ndarray[Any, Any], inputs: Mapping[str, np.ndarray[Any, Any]], data: Path
) -> np.ndarray[Any, Any]:
    """(N,) class indices. Raise DataError for what is none, and for inputs of another number of samples, or of no numbers."""
    labels = label.reshape(-1)
    if labels.dtype.kind not in "iu" or len(labels) != len(label) or not len(labels):
        shape = " x ".join(map(str, label.shape))
        raise DataError(
            f"array 'label' is {label.dtype} of {shape}", file=data, expected="a class index for each sample"
        )
    if not bool((labels >= 0).any()):
        raise DataError(f"array 'label' is {labels[0]} everywhere", file=data, expected="the class of some samples")
    for name, array in inputs.items():
        if len(array) != len(labels):
            problem = f"array '{name}' has {len(array):,} samples, 'label' {len(labels):,}"
            raise DataError(problem, file=data, expected="a label for each sample")
        if array.dtype.kind not in "biuf":
            raise DataError(f"array '{name}' is {array.dtype}", file=data, expected="numbers")
    return labels


def _classes(answer: np.ndarray[Any, Any], data: Path) -> np.ndarray[Any, Any]:
    """(N,) of what a file answers: classes, or one logit a class. Raise DataError for anything else."""
    if answer.ndim == 1 and answer.dtype.kind in "iu":
        return answer
    if answer.ndim == 2 and answer.dtype.kind == "f" and answer.shape[1] > 1:
        return np.asarray(answer.argmax(1))
    shape = " x ".join(map(str, ("N", *answer.shape[1:])))
    raise DataError(
        f"the file answers {answer.dtype} of {shape}, and arrays are judged by one class a sample",
        file=data,
        expected="a file that answers logits of N x classes or a class; for others --data takes the study's folder",
    )


def _check_sizes(name: str, found: tuple[int, ...], shape: Sequence[int | str | None], data: Path) -> None:
    """Raise DataError for an array that is not (N, ...) as the file's input is; a size that has a name there is open."""
    wanted = [None if isinstance(each, str) else each for each in shape]
    if len(found) != len(wanted) or any(b is not None and a != b for a, b in zip(found, wanted, strict=True)):
        sizes = ", ".join("any" if each is None else str(each) for each in wanted[1:])
        said = " x ".join(map(str, found)) or "one number"
        raise DataError(f"array '{name}' is {said}", file=data, expected=f"samples of ({sizes}), as the file reads")
