"""What live samples teach: a field of a known name, stated as the data sets of its task state theirs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from kdsearch.errors import DataError
from kdsearch.kinds import HIDDEN, Field

TASKS: Mapping[str, str] = {
    "label": "classification",
    "labels": "multilabel",
    "target": "regression",
    "next": "causal_lm",
    "mask": "segmentation",
}  # target -> its task
EXPECTED: Mapping[str, str] = {
    "label": f"a class index a sample, or {HIDDEN}",
    "labels": f"(K,) of 1, 0 or, where nobody knows, {HIDDEN}",
    "target": "one number or (K,) a sample, NaN where nobody knows",
    "next": f"what follows each of `tokens` (N,), or {HIDDEN}",
    "mask": f"(H, W) class indices as large as the image, or {HIDDEN}",
}
IGNORED = 255  # what pictures of masks often have where nobody knows


def target_of(rows: Mapping[str, Tensor], task: str | None) -> str:
    """The field that is learned: the task's; of a task that has none here, or none that is named, the first there is.

    rows: (B, ...) of some samples.

    Raises:
        DataError: the task's field is not there.
    """
    asked = next((name for name, its_task in TASKS.items() if its_task == task), None)
    if asked is None:
        there = (name for name in TASKS if name in rows and (name != "mask" or _is_map(rows[name])))
        return next(there, "label")
    if asked not in rows and asked != "label":
        problem = f"live samples have {', '.join(rows)}, and '{task}' learns a field '{asked}'"
        raise DataError(problem, path="data", expected=f"'{asked}', {EXPECTED[asked]}", fix="Call it so.")
    return asked


def _is_map(values: Tensor) -> bool:
    return values.ndim > 2 and not values.is_floating_point()


def as_target(name: str, values: Tensor, index: Sequence[int], split: str) -> Tensor:
    """A target (B, ...) as its task reads it: float32 (B, K) numbers, int64 all else.

    Raises:
        DataError: labels that are no yes or no, infinite numbers; with the sample.
    """
    if name == "target":
        values = values.float()
        _refuse(values.isinf(), values, name, index, split)
        return values[:, None] if values.ndim == 1 else values
    if name == "labels":
        values = values.float().nan_to_num(nan=HIDDEN) if values.is_floating_point() else values
        values = values.long() if values.dtype == torch.bool else values
        _refuse((values != 0) & (values != 1) & (values != HIDDEN), values, name, index, split)
        return values.long()
    if name == "mask" and values.ndim == 4 and values.shape[1] == 1:
        values = values[:, 0]
    if name in ("mask", "next") and not values.is_floating_point():
        values = values.long()
        _refuse((values < 0) & (values != HIDDEN), values, name, index, split)
    return values


def _refuse(wrong: Tensor, values: Tensor, name: str, index: Sequence[int], split: str) -> None:
    if bool(wrong.any()):
        at = wrong.nonzero()[0].tolist()
        problem = f"'{name}' of sample {index[at[0]]} of split '{split}' holds {values[tuple(at)].item():g}"
        raise DataError(problem, expected=EXPECTED[name])


def field_of(name: str, values: Tensor, n_values: int | None) -> Field:
    """The field of a target (B, ...) other than `label`. Raise DataError where its shape is none that its task learns."""
    shape = tuple(values.shape[1:])
    if len(shape) != (2 if name == "mask" else 1) or (name != "target" and values.is_floating_point()):
        kind = str(values.dtype).removeprefix("torch.")
        raise DataError(f"'{name}' is {shape} {kind} a sample", expected=EXPECTED[name])
    if name == "target":
        return Field(name, "value", shape, "float32", "target")
    kind = {"labels": "labels", "next": "tokens", "mask": "map"}[name]
    return Field(name, kind, shape, "int64", "target", n_values)


def check_label(values: Tensor | None) -> None:
    """Raise DataError for labels (B, ...) that are no class indices, with what they may be instead."""
    if values is None or (values.ndim == 1 and values.dtype == torch.int64):
        return
    shape = tuple(values.shape[1:])
    fix = {
        0: "Make classes whole numbers; of numbers to be learned as such say task={'use': 'regression'}.",
        1: "Of one class a sample give its index, label.argmax(); of several, call the field 'labels'.",
    }.get(len(shape), "Of a class a pixel say task={'use': 'segmentation'}, or call the field 'mask'.")
    kind = str(values.dtype).removeprefix("torch.")
    raise DataError(f"'label' is {shape} {kind} a sample", path="data", expected=EXPECTED["label"], fix=fix)


def check_classes(known: Collection[int]) -> None:
    """Raise DataError for a mask's class indices, of which the greatest are not said, that hold a mark of the unknown."""
    if IGNORED in known and max(known) == IGNORED and IGNORED - 1 not in known:
        raise DataError(
            f"'mask' holds {IGNORED}",
            expected=EXPECTED["mask"],
            fix=f"Write {HIDDEN} where nobody knows the class, or say in data.options.classes that there are {IGNORED + 1}.",
        )


def moments(values: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(K,) mean and standard deviation of the rows (N, K), NaN left out; 0 and 1 where there is nothing, 1 for a constant."""
    values = values.double()
    n = (~values.isnan()).sum(0).clamp(min=1)
    mean = values.nansum(0) / n
    std = ((values - mean).square().nansum(0) / n).sqrt()
    std = torch.where(std > 1e-9 * mean.abs().clamp(min=1e-30), std, 1.0)
    return tuple(mean.tolist()), tuple(std.tolist())
