"""Whether a data set's samples, and networks' answers, are what their fields say, looked at before anything is made of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor

from kdsearch.errors import DataError, PluginError, one_of
from kdsearch.kinds import HIDDEN, IO, Batch, DataSource, Field, Model, Task

SAMPLES = 4  # of each split


def check_source(source: object) -> None:
    """Raise DataError for what is no opened data set."""
    kind = type(source).__name__
    if lacks := [name for name in ("fields", "facts", "splits", "split") if not hasattr(source, name)]:
        raise DataError(
            f"an opened data set is a {kind} without {one_of(lacks)}", expected="a kdsearch.kinds.DataSource"
        )
    fields, facts = source.fields, source.facts  # type: ignore[attr-defined]
    if not isinstance(fields, Sequence) or not all(isinstance(each, Field) for each in fields):
        raise DataError(
            f"`fields` of the opened data set ({kind}) are {fields!r}", expected="kdsearch.kinds.Field, each"
        )
    if not isinstance(facts, Mapping):
        raise DataError(f"`facts` of the opened data set ({kind}) are {facts!r}", expected="a dict")
    notes = facts.get("notes", ())
    if isinstance(notes, str | Mapping) or not isinstance(notes, Iterable):
        problem = f"`facts` of the opened data set ({kind}) have {notes!r} as notes"
        raise DataError(problem, expected="a list of texts")
    splits = source.splits  # type: ignore[attr-defined]
    if isinstance(splits, str) or not isinstance(splits, Sequence):
        raise DataError(f"`splits` of the opened data set ({kind}) are {splits!r}", expected="a tuple of names")


def check_split(name: str, split: object) -> None:
    """Raise DataError for what is no split."""
    if lacks := [each for each in ("ids", "load") if not hasattr(split, each)]:
        problem = f"split '{name}' of the data set is a {type(split).__name__} without {one_of(lacks)}"
        raise DataError(problem, expected="a kdsearch.kinds.Split")


def check_fits(source: DataSource) -> None:
    """Raise DataError where the first samples of a split, `test` aside, are not those that were asked for, or not as declared.

    A target may be left out, where nobody knows it.
    """
    for name in source.splits:
        split = source.split(name)
        if name == "test" or not len(split.ids):
            continue
        index = list(range(min(SAMPLES, len(split.ids))))
        batch, wanted = split.load(index), tuple(split.ids[i] for i in index)
        if not isinstance(batch, Batch):
            raise DataError(f"split '{name}' loads a {type(batch).__name__}", expected="a kdsearch.kinds.Batch")
        if tuple(batch.ids) != wanted:
            problem = f"split '{name}' loads the samples {_shown(batch.ids)} where {_shown(wanted)} are asked for"
            raise DataError(problem, expected="the samples at the given places, in that order")
        for field in source.fields:
            if field.use != "target" or field.name in batch:
                _check_field(f"split '{name}'", batch, field)


def check_classes(batch: Batch, target: str, n: int) -> None:
    """Raise DataError, which names the sample, for a class index that is none of n classes; HIDDEN is one that nobody knows."""
    value = batch.tensors.get(target)
    if value is None:
        return
    wrong = (value != HIDDEN) & ((value < 0) | (value >= n))
    if bool(wrong.any()):
        at = int(wrong.nonzero()[0])
        problem = f"'{target}' of sample '{batch.ids[at]}' is {value[at].item()}"
        raise DataError(problem, path="data", expected=f"0..{n - 1} for the {n} classes")


def check_answers(model: Model, task: Task[Any], io: IO) -> None:
    """Raise PluginError where a network that a search space built does not answer in the shapes that its task says."""
    batch = task.dummy(io, SAMPLES, Generator().manual_seed(0))
    with torch.no_grad():
        out = task.call(replace(model, module=model.module.eval()), batch)
    for field in task.answers(io):
        if field.name in out and not _has_shape(out[field.name], field):
            problem = f"`build` of the search space answers '{field.name}' in the shape {tuple(out[field.name].shape)}"
            raise PluginError(problem, expected=f"{(SAMPLES, *field.shape)}, as `io` says")


def _has_shape(value: Tensor, field: Field) -> bool:
    """Whether each sample of a batch has the field's shape."""
    sizes = tuple(value.shape)[1:]
    return len(sizes) == len(field.shape) and all(
        want in (None, got) for want, got in zip(field.shape, sizes, strict=True)
    )


def _check_field(where: str, batch: Batch, field: Field) -> None:
    value = batch.tensors.get(field.name)
    if value is None:
        raise DataError(
            f"{where} loads no field '{field.name}'", expected=f"what `fields` says; it has {one_of(batch.tensors)}"
        )
    if not isinstance(value, Tensor):
        raise DataError(f"{where} loads '{field.name}' as {type(value).__name__}", expected="a torch.Tensor")
    if value.shape[:1] != (len(batch),) or not _has_shape(value, field):
        problem = f"{where} loads {len(batch)} samples' '{field.name}' in the shape {tuple(value.shape)}"
        raise DataError(problem, expected=f"{(len(batch), *field.shape)}, as `fields` says")
    if field.use != "target" and value.dtype != field.torch_dtype:
        raise DataError(
            f"{where} loads '{field.name}' as {value.dtype}", expected=f"{field.torch_dtype}, as `fields` says"
        )


def _shown(ids: Sequence[str]) -> str:
    return ", ".join(f"'{each}'" for each in ids)
