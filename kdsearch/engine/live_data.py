"""Live data as a DataSource: torch Datasets, tensors or arrays that a Python program already holds."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field as Option
from torch import Tensor
from torch.utils.data import Subset

from kdsearch.engine.live_pixels import made_of_pixels, preprocessing, said_to_be
from kdsearch.engine.live_samples import Columns, Items, Samples, digests, every, ids_in, seed_of
from kdsearch.engine.live_targets import TASKS, check_classes, check_label, field_of, moments, target_of
from kdsearch.errors import DataError, nearest, one_of
from kdsearch.kinds import HIDDEN, Batch, Field, Normalization, Options, Split, split_of, stated
from kdsearch.limits import CLASSES

LOOKED_AT = 64  # samples whose labels say whether the Dataset's `targets` are theirs
HASHED = 1024  # samples of a Dataset that its digest reads, evenly spaced
SPLITS = ("train", "unlabeled", "val", "test")


class LiveOptions(Options):
    """What `data.options` says of live samples."""

    classes: Annotated[int, Option(ge=2, le=CLASSES)] | Annotated[list[str], Option(min_length=2)] | None = Option(
        None,
        description="number or names of the classes or labels; null = the Dataset's `classes`, else as the samples are",
    )


class LiveSplit:
    """Ids "split-000123". `labels` (N,) are read once, when the source is made."""

    def __init__(self, split: str, samples: Samples, labels: Tensor | None) -> None:
        self._samples, self._ids = samples, tuple(f"{split}-{i:06d}" for i in range(len(samples)))
        if labels is not None:
            self.labels = labels

    @property
    def ids(self) -> Sequence[str]:
        return self._ids

    def load(self, index: Sequence[int], augment: bool = False, seed: int = 0) -> Batch:
        ids = tuple(self._ids[i] for i in index)
        seeds = [seed_of(f"{seed}\0{sample}" if augment else sample) for sample in ids]
        if not ids:  # a Dataset cannot say its shapes without a sample
            return Batch((), {name: value[:0] for name, value in self._samples.rows([0], [0]).items()})
        return Batch(ids, self._samples.rows([int(i) for i in index], seeds))


class NormalizedSplit:
    """A split whose images are scale * image + shift, a channel each."""

    def __init__(self, split: Split, scale: Tensor, shift: Tensor) -> None:
        self._split, self._scale, self._shift = split, scale, shift
        if (labels := getattr(split, "labels", None)) is not None:
            self.labels = labels

    @property
    def ids(self) -> Sequence[str]:
        return self._split.ids

    def load(self, index: Sequence[int], augment: bool = False, seed: int = 0) -> Batch:
        batch = self._split.load(index, augment, seed)
        return batch.having(image=batch["image"] * self._scale + self._shift)


class LiveSource:
    """`augments`: the data change from one reading to the next (random transforms), so that no teacher output is cached.

    task: that learns the samples' target. numbers: (N, K) that `train` has as its target, where it is one of numbers.
    """

    def __init__(
        self,
        splits: Mapping[str, Split],
        fields: tuple[Field, ...],
        facts: Mapping[str, Any],
        augments: bool,
        task: str = "classification",
        numbers: Tensor | None = None,
    ) -> None:
        self._splits, self._fields, self._facts, self.augments = dict(splits), fields, facts, augments
        self.task, self._numbers = task, numbers

    @property
    def fields(self) -> tuple[Field, ...]:
        return self._fields

    @property
    def facts(self) -> Mapping[str, Any]:
        return self._facts

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._splits)

    def split(self, name: str) -> Split:
        return split_of(self._splits, name)

    def measured_on(self, ids: Collection[str], labeled: Collection[str]) -> LiveSource:
        """The same samples, their target in units of what these of `train` have."""
        if self._numbers is None:
            return self
        known = {*labeled}
        rows = [i for i, sample in enumerate(self.split("train").ids) if sample in known]
        mean, std = moments(self._numbers[rows])
        fields = (replace(each, mean=mean, std=std) if each.kind == "value" else each for each in self._fields)
        return LiveSource(self._splits, tuple(fields), self._facts, self.augments, self.task, self._numbers)

    def normalized(self, wanted: Normalization) -> LiveSource:
        """Images of 0..1 or 0..255 in this normalisation; others are taken to be in it already, and only said to be.

        Raises:
            DataError: there are no images, or these cannot be in it: they would be pixels far outside of 0..1.
        """
        told = self._facts.get("preprocessing")
        if told is None:
            raise DataError("samples without images", path="data.normalize", expected="auto")
        own, given = wanted.of(told["channels"]), stated(self._facts)
        if given is not None:
            formula = f"(x / {told['scale']:g} - mean) / std, a channel each; x in 0..{told['scale']:g}"
            told = {**told, **said_to_be(own), "formula": formula}
            scale, shift = own.from_other(given)
            splits: dict[str, Split] = {
                name: NormalizedSplit(each, scale, shift) for name, each in self._splits.items()
            }
        else:
            told, splits = made_of_pixels(told, own), self._splits
        facts = {**self._facts, "preprocessing": told}
        return LiveSource(splits, self._fields, facts, self.augments, self.task, self._numbers)


def from_torch(
    data: Any, *, classes: Sequence[str] | int | None = None, name: str = "live", task: str | None = None
) -> LiveSource:
    """Live data as a source that studies read.

    Args:
        data: a map-style Dataset, or a list, of (image, target) pairs or dicts; a pair of arrays or tensors (images, targets);
            a dict of such columns by field name; or a dict of any of these by split (train, unlabeled, val, test). Images are
            (C, H, W), or (H, W) for grey; uint8 and PIL images are divided by 255, floats are used as they are. Texts are
            `tokens` (N,), ids up to the greatest one there is, and their `mask` (N,), not 0 at tokens. What is learned is
            `label`, `labels`, `target`, `next` or `mask`: see `live_targets.EXPECTED`.
        classes: names of the classes or labels, or how many there are; else the Dataset's `classes`, else numbers, of classes up
            to the greatest one there is.
        name: in reports.
        task: the study's, where it names one: its target is learned. None = the first of these names that there is.

    Raises:
        DataError: no samples, fields of unequal shape or length, a target that is none of its task, an unknown split.
    """
    by_split = _by_split(data)
    second = next((target for target, its_task in TASKS.items() if its_task == task), "label")
    samples = {split: _samples(split, each, second) for split, each in by_split.items()}
    for split, each in samples.items():
        if not len(each):
            raise DataError(f"split '{split}' has no samples", expected="at least one sample")
    target = target_of(_first(samples)["train"], task)
    for each in samples.values():
        each.target = target
    first = _first(samples)
    if target == "label" and task in (None, TASKS["label"]):
        check_label(first["train"].get("label"))
    if target != "label":
        field_of(target, first["train"][target], None)  # refuses it before all of it is read
    with_target = [split for split in samples if target in first[split]]
    labels: dict[str, Tensor | None] = dict.fromkeys(samples)
    numbers: dict[str, Tensor | None] = dict.fromkeys(samples)
    n_values: int | None = None
    facts: dict[str, Any] = {"name": name, "source": "live objects of the calling program", "licence": "the user's"}
    if target == "label" and (label := first["train"].get("label")) is not None and _is_class(label):
        labels |= {split: _labels(split, samples[split], by_split[split]) for split in with_target}
        greatest = max((int(each.max()) for each in labels.values() if each is not None), default=0)
        facts["classes"] = _class_names(classes, by_split["train"], greatest + 1)
    elif target in ("labels", "target"):
        numbers |= {split: every(samples[split], target) for split in with_target}
        if target == "labels":
            n = first["train"]["labels"].shape[-1]
            facts["labels"] = _class_names(classes, by_split["train"], n, exactly=True)
    elif target == "mask":
        known = ids_in(samples, target)
        if classes is None:
            check_classes(known)
        facts["classes"] = _class_names(classes, by_split["train"], max(known, default=0) + 1)
        n_values = len(facts["classes"])
    if "tokens" in first["train"] and not first["train"]["tokens"].is_floating_point():
        read = ids_in(samples, "tokens") | (ids_in(samples, target) if target == "next" else set())
        n_values = max(read, default=0) + 1
    fields = tuple(_field(field, value, target, n_values) for field, value in first["train"].items())
    facts["content"], ends, copies = _content(
        samples, {split: _either(labels[split], numbers[split]) for split in samples}
    )
    if (image := next((each for each in fields if each.kind == "image"), None)) is not None:
        facts["preprocessing"] = preprocessing(image, ends)
    if copies:
        facts["copies"] = copies
    facts["samples"] = {split: len(each) for split, each in samples.items()}
    splits = {split: LiveSplit(split, each, labels[split]) for split, each in samples.items()}
    _same_shapes(first, target)
    is_random = any(_is_random(split) for split in splits.values())
    return LiveSource(splits, fields, facts, is_random, TASKS[target], numbers["train"] if target == "target" else None)


def _first(samples: Mapping[str, Samples]) -> dict[str, dict[str, Tensor]]:
    """The first sample of each split."""
    return {split: each.rows([0], [seed_of(f"{split}-000000")]) for split, each in samples.items()}


def _by_split(data: Any) -> dict[str, Any]:
    if not isinstance(data, Mapping) or not ("train" in data or all(_is_whole(value) for value in data.values())):
        return {"train": data}
    for split in data:
        if split not in SPLITS:
            raise DataError(f"split '{split}'", nearest=nearest(str(split), SPLITS), expected=one_of(SPLITS))
    if "train" not in data:
        raise DataError("no split 'train'", expected="train, and optionally unlabeled, val and test")
    return {split: data[split] for split in SPLITS if data.get(split) is not None}


def _is_whole(value: Any) -> bool:
    """Whether a value is a whole split rather than one column of it."""
    return isinstance(value, Mapping | tuple) or _is_dataset(value)


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__")  # of numpy, torch, pandas


def _is_dataset(value: Any) -> bool:
    return (
        not _is_array(value) and not isinstance(value, Mapping | tuple | list | str) and hasattr(value, "__getitem__")
    )


def _samples(split: str, data: Any, second: str) -> Samples:
    """`second`: what the other part of a pair is."""
    if _is_array(data):
        data = (data,)
    if (
        isinstance(data, tuple)
        and 1 <= len(data) <= 2
        and all(_is_array(each) or isinstance(each, list) for each in data)
    ):
        return Columns(split, dict(zip(("image", second), data, strict=False)), second)
    if isinstance(data, Mapping) and data:
        return Columns(split, data, second)
    if isinstance(data, list) or (_is_dataset(data) and hasattr(data, "__len__")):
        return Items(split, data, second)
    raise DataError(
        f"split '{split}' is a {type(data).__name__}",
        expected="a Dataset with a length, a list of samples, a pair of arrays (images, labels), or a dict of arrays",
    )


def _is_class(batch: Tensor) -> bool:
    return batch.ndim == 1 and batch.dtype == torch.int64


def _field(name: str, batch: Tensor, target: str, n_values: int | None) -> Field:
    shape, dtype = tuple(batch.shape[1:]), str(batch.dtype).removeprefix("torch.")
    if name == target != "label":
        return field_of(name, batch, n_values)
    if name == "label" != target:
        return Field(name, "vector", shape, dtype, "extra")
    if name == "label" and _is_class(batch):
        return Field(name, "label", shape, dtype, "target")
    if name == "label":
        return Field(name, "map" if len(shape) >= 2 else "vector", shape, dtype, "target")
    if name == "image":
        if len(shape) != 3:
            fix = "Vectors are given by name: {'x': ..., 'label': ...}." if len(shape) == 1 else ""
            raise DataError(f"'image' of shape {shape}", expected="(C, H, W), or (H, W) for grey", fix=fix)
        return Field(name, "image", shape, dtype)
    if len(shape) == 1 and name == "mask":
        return Field(name, name, shape, dtype)
    if len(shape) == 1 and name == "tokens" and not batch.is_floating_point():
        return Field(name, name, shape, dtype, n_values=n_values)
    return Field(name, "vector", shape, dtype)


def _either(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return other if one is None else one


def _same_shapes(first: Mapping[str, Mapping[str, Tensor]], target: str) -> None:
    for split, values in first.items():
        lacks = sorted(first["train"].keys() - values.keys() - ({target} if split == "unlabeled" else set()))
        if lacks:
            unknown = "NaN" if target == "target" else HIDDEN
            raise DataError(
                f"split '{split}' has no '{lacks[0]}', which 'train' has",
                expected="the same fields in every split",
                fix=f"Where nobody knows it, write {unknown}." if target in lacks else "",
            )
        for name, value in values.items():
            mine = first["train"].get(name)
            if mine is None or mine.shape != value.shape or mine.dtype != value.dtype:
                has = f"{tuple(mine.shape[1:])} {mine.dtype}" if mine is not None else "no such field"
                raise DataError(
                    f"split '{split}' has '{name}' {tuple(value.shape[1:])} {value.dtype}, 'train' has {has}",
                    expected="the same fields in every split",
                )


def _labels(split: str, samples: Samples, data: Any) -> Tensor:
    """(N,) int64. A Dataset's `targets` spare loading its samples, unless these have others."""
    targets = _stated_targets(data) if isinstance(samples, Items) else None
    if targets is not None and len(targets) == len(samples) and _are_of(samples, targets):
        labels = targets
    elif isinstance(samples, Columns):
        labels = samples.columns["label"]
    else:
        labels = every(samples, "label")
    if labels.ndim != 1 or labels.dtype.is_floating_point or labels.dtype == torch.bool:
        raise DataError(f"split '{split}': labels are {labels.dtype}", expected="class indices")
    labels = labels.long()
    wrong = ((labels < 0) & (labels != HIDDEN)).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise DataError(
            f"label {int(labels[row])} of sample {row} in split '{split}'", expected=f"0 or more, or {HIDDEN}"
        )
    return labels


def _stated_targets(data: Any) -> Tensor | None:
    """(N,) whole numbers that a Dataset, or the one that a Subset is of, has as `targets`; None where it has others, or none."""
    try:
        if isinstance(data, Subset):
            found = _stated_targets(data.dataset)
            return None if found is None else found[torch.as_tensor(data.indices)]
        found = torch.as_tensor(getattr(data, "targets", None)).cpu()
    except (IndexError, OverflowError, RuntimeError, TypeError, ValueError):  # texts, say
        return None
    return found if found.ndim == 1 and not found.is_floating_point() else None


def _are_of(samples: Samples, targets: Tensor) -> bool:
    """Whether LOOKED_AT samples, evenly spaced, have these labels: a subclass or a transform may make others of them."""
    n = len(samples)
    index = sorted({i * n // LOOKED_AT for i in range(LOOKED_AT)})
    found = samples.rows(index, [0] * len(index))["label"]
    return found.shape == targets[index].shape and bool((found == targets[index]).all())


def _class_names(said: Sequence[str] | int | None, train: Any, n: int, exactly: bool = False) -> list[str]:
    """`n`: how many there are at least; `exactly`: and at most."""
    while isinstance(train, Subset):
        train = train.dataset
    names = said if said is not None else getattr(train, "classes", None)
    if isinstance(names, np.ndarray):
        names = names.tolist()
    if isinstance(names, int):
        names = [str(i) for i in range(names)]
    if not (isinstance(names, list | tuple) and all(isinstance(each, str) for each in names)):
        return [str(i) for i in range(n)]
    if n > len(names) or (exactly and n < len(names)):
        problem = f"{n} labels a sample" if exactly else f"label {n - 1}"
        expected = f"{len(names)}" if exactly else f"0..{len(names) - 1}"
        raise DataError(f"{problem}, but {len(names)} classes are named", expected=expected)
    return list(names)


def _content(
    samples: Mapping[str, Samples], labels: Mapping[str, Tensor | None]
) -> tuple[str, tuple[float, float], dict[str, int]]:
    """sha256 over every label and every row of arrays, the least and greatest pixel, and how many samples of `val` and `test` are
    there for training, too, whatever their target; of a Dataset from HASHED samples, evenly spaced."""
    digest, rows_of = hashlib.sha256(), dict[str, list[bytes]]()
    low, high = math.inf, -math.inf
    for split, each in samples.items():
        n = len(each)
        digest.update(f"{split}\0{n}\0".encode())
        known = labels[split]
        if known is not None:
            digest.update(known.numpy().tobytes())
        rows = range(n) if isinstance(each, Columns) else sorted({i * n // HASHED for i in range(HASHED)})
        step = 256
        for start in range(0, len(rows), step):
            index = list(rows[start : start + step])
            read = each.rows(index, [0] * len(index))
            if len(samples) > 1:
                rows_of.setdefault(split, []).extend(digests(read, each.target))
            for name, value in read.items():
                digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
                digest.update(value.contiguous().numpy().tobytes())
                if name == "image":
                    low, high = min(low, float(value.min())), max(high, float(value.max()))
    trained = {row for split in ("train", "unlabeled") for row in rows_of.get(split, ())}
    copies = {split: sum(row in trained for row in rows_of.get(split, ())) for split in ("val", "test")}
    return digest.hexdigest(), (low, high), {split: n for split, n in copies.items() if n}


def _is_random(split: LiveSplit, n: int = 64, at_once: int = 8) -> bool:
    """Whether one of the first n samples differs between two seeds: what happens to one in ten shows, but once in 10^5."""
    for start in range(0, min(n, len(split.ids)), at_once):
        index = list(range(start, min(start + at_once, n, len(split.ids))))
        one, other = split.load(index, True, 1), split.load(index, True, 2)
        if not all(_are_equal(one[name], other[name]) for name in one.tensors):
            return True
    return False


def _are_equal(one: Tensor, other: Tensor) -> bool:
    """What is NaN, as an unknown number is, is so in both."""
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())
