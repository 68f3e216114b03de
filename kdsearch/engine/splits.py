"""The splits of a study: train, validation and test of any source, stratified, with targets for only some of them.

Which samples go where is a function of the seed and of the samples' ids alone: within a class they are ordered by
hash(seed, purpose, id) and the first ones are taken, so that more samples move few others. Samples of a group go by its name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdsearch.engine.fits import check_classes, check_split
from kdsearch.engine.groups import groups_in
from kdsearch.engine.members import Members, Piece
from kdsearch.engine.shares import budgeted, carved, cut, joined, with_parts
from kdsearch.engine.strata import Samples, Strata
from kdsearch.errors import DataError, nearest, one_of
from kdsearch.kinds import HIDDEN, Batch, DataSource, Field, Measured, Split, Task
from kdsearch.kinds.targets import is_class, strata_of, targets_of, without_targets

KNOWN_SPLITS = ("train", "unlabeled", "val", "test")  # of a source; others are kept as they are


@dataclass(frozen=True)
class Targets:
    """What the study may hide, and how, as its task says.

    `classes`: names of the classes where the target is one class index a sample, else (). `stated`: by the source itself; else they
    are as many as the strata that its splits offer, which may be others.
    """

    fields: tuple[Field, ...]
    hide: Callable[[Batch, Tensor, Sequence[Field]], Batch]
    strata: Callable[[Batch, Sequence[Field]], Tensor]
    classes: tuple[str, ...] = ()
    stated: bool = False

    @classmethod
    def of(cls, source: DataSource, task: Task[Any] | None) -> Targets:
        if task is None:
            return cls(targets_of(source.fields), without_targets, strata_of)
        return cls(task.targets(source.fields), task.hide, task.strata)

    @property
    def is_class(self) -> bool:
        return is_class(self.fields)

    @property
    def known(self) -> str:
        """What a sample has whose target is known."""
        return "a label" if self.is_class else f"a known {' or '.join(repr(each.name) for each in self.fields)}"

    def hidden_in(self, batch: Batch, hidden: Tensor) -> Batch:
        """As the study sees it. Raise DataError for a class that is none: what is loaded may differ from `labels` of the split."""
        seen = self.hide(batch, hidden, self.fields)
        if self.is_class and self.stated:
            check_classes(seen, self.fields[0].name, len(self.classes))
        return seen


class Arranged:
    """A DataSource with the study's splits: `train`, `val`, `test`; `labeled` and `unlabeled` are parts of `train`.

    In `train` and `val` the targets of a sample outside the budget are hidden; in `test` every one is there. A split without
    samples (`unlabeled` when every target is known) does not exist. Where the task has no target, `labeled` is `train`.
    """

    def __init__(
        self,
        source: DataSource,
        natives: Sequence[Split],
        samples: Mapping[str, Samples],
        targets: Targets,
        asked: Mapping[str, Any],
    ) -> None:
        self._source, self._natives, self._samples = source, natives, dict(samples)
        self._targets, self._asked = targets, dict(asked)
        self._facts = {**source.facts, "splits": {**self._asked, "counts": self.counts()}}

    @property
    def source(self) -> DataSource:
        """What the splits are made of."""
        return self._source

    @property
    def hides_targets(self) -> bool:
        """Whether some target is hidden from the student."""
        return any(counts.get("unlabeled", 0) > 0 for name, counts in self.counts().items() if name in ("train", "val"))

    @property
    def fields(self) -> tuple[Field, ...]:
        return self._source.fields

    @property
    def facts(self) -> Mapping[str, Any]:
        return self._facts

    @property
    def splits(self) -> tuple[str, ...]:
        extra = [name for name in self._source.splits if name not in KNOWN_SPLITS and name not in self._samples]
        return (*self._samples, *extra)

    def split(self, name: str) -> Split:
        if name in self._samples:
            found = self._samples[name]
            pieces = tuple(
                Piece(native, np.flatnonzero(found.source == i), found.row[found.source == i])
                for i, native in enumerate(self._natives)
                if bool((found.source == i).any())
            )
            if not self._targets.fields:
                return Members(found.ids, pieces, fields=self.fields)
            visible = torch.from_numpy(found.visible)
            labels = visible if self._targets.is_class else None
            return Members(found.ids, pieces, labels, visible == HIDDEN, self._targets.hidden_in, self.fields)
        if name in self.splits:
            return self._source.split(name)
        why = ""
        if name == "unlabeled":
            why = " (every training sample has its label)"
        if name == "labeled":
            why = " (no training sample has a label)"
        raise DataError(f"no split '{name}'{why}", nearest=nearest(name, self.splits), expected=one_of(self.splits))

    def revealed(self) -> Arranged:
        """The same samples with every target that exists: for a teacher trained on all, and the all-labels control."""
        if not self._targets.fields:
            return self
        shown = {
            name: replace(each, seen=np.ones(len(each), dtype=np.bool_))
            for name, each in self._samples.items()
            if name not in ("labeled", "unlabeled")
        }
        return Arranged(self._source, self._natives, with_parts(shown), self._targets, {**self._asked, "labeled": 1.0})

    def trained_on(self, source: DataSource) -> Arranged:
        """These splits with the `train` of another source, which a recipe made; `val` and `test` stay.

        Raises:
            DataError: its samples lack a field or are among the held-out ones, or a label is out of range.
        """
        has = {each.name: each for each in source.fields}
        for each in self._source.fields:
            if each.use != "extra" and has.get(each.name) != each:
                raise DataError(f"its samples have {has.get(each.name)}", expected=f"as the data set: {each}")
        native = source.split("train")
        train = _read(native, len(self._natives), self._targets, True)
        held_out = {name: each for name, each in self._samples.items() if name in ("val", "test")}
        _check_ids({"train": train, **held_out})
        if self._targets.is_class:
            _check_labels("train", train, self._targets.classes)
        if not len(train):
            raise DataError("it keeps no sample", expected="at least one")
        samples = {"train": train, **held_out}
        samples = with_parts(samples) if self._targets.fields else {"train": train, "labeled": train, **held_out}
        return Arranged(self._source, [*self._natives, native], samples, self._targets, self._asked)

    def counts(self) -> dict[str, dict[str, int]]:
        """split -> {class: samples whose label the study sees, "unlabeled": the others}.

        {"labeled": n, "unlabeled": n} where targets are no classes, {"samples": n} where there are none.
        """
        if not self._targets.fields:
            return {name: {"samples": len(each)} for name, each in self._samples.items()}
        counted = {}
        for name, each in self._samples.items():
            visible = each.visible
            known = visible[visible != HIDDEN]
            if self._targets.is_class:
                per_class = np.bincount(known, minlength=len(self._targets.classes))
                counted[name] = {label: int(n) for label, n in zip(self._targets.classes, per_class, strict=True)}
            else:
                counted[name] = {"labeled": len(known)}
            counted[name]["unlabeled"] = len(visible) - len(known)
        return counted

    def digest(self) -> str:
        """sha256 over each split's ids, which labels are seen, and the source's content where it states one."""
        digest = hashlib.sha256(str(self._source.facts.get("content", "")).encode())
        for name, each in self._samples.items():
            digest.update(f"\0{name}\0{len(each)}\0".encode())
            digest.update("\0".join(each.ids).encode())
            digest.update(each.visible.tobytes())
        return digest.hexdigest()


def arrange(
    source: DataSource,
    *,
    labeled: float | int,
    validation: float,
    test: float,
    train_samples: int | None = None,
    seed: int = 0,
    task: Task[Any] | None = None,
) -> Arranged:
    """The study's splits of `source`.

    Args:
        source: with at least `train`; its own `val` and `test` are kept, its `unlabeled` joins `train` without labels.
        labeled: budget of labels, those of `val` included: an int counts samples, a float is the share of the
            non-test samples whose label exists. Every class gets one in `train`, and in `val` where that much is given.
            Data without a single label need 1.0.
        validation, test: shares of the source's `train` to carve, where the source has no such split.
        train_samples: keep so many training samples, stratified.
        seed: of the choice.
        task: says which fields are targets, how they are hidden and stratified; None = as a task does by default.

    Raises:
        DataError: an empty split, fewer labels than classes, more labels than there are, a label out of range,
            an id that occurs twice; with the numbers and what to change.
    """
    natives = [source.split(name) for name in KNOWN_SPLITS if name in source.splits]
    named = dict(zip([name for name in KNOWN_SPLITS if name in source.splits], range(len(natives)), strict=True))
    if "train" not in named:
        raise DataError("the data set has no split 'train'", expected="train", fix=f"It has {one_of(source.splits)}.")
    for name, i in named.items():
        check_split(name, natives[i])
    targets = Targets.of(source, task)
    read = {name: _read(natives[i], i, targets, name != "unlabeled") for name, i in named.items()}
    _check_ids(read)
    if targets.is_class:
        targets = replace(targets, classes=_classes(source, read), stated=bool(source.facts.get("classes")))
        for name, each in read.items():
            _check_labels(name, each, targets.classes)
    if not targets.fields and labeled != 1.0:
        raise DataError(
            f"labeled {labeled}: the data set has no labels to hide",
            path="data.labeled",
            expected="a field that is a target of the task",
            fix="Remove `labeled`.",
        )

    n_strata = len(targets.classes) or max([0, *(1 + int(each.label.max()) for each in read.values() if len(each))])
    strata = Strata(n_strata, targets.is_class, targets.known)
    names = groups_in(natives[named["train"]])
    samples = carved(read, names, strata, validation, test, seed)
    if "unlabeled" in read:
        samples["train"] = joined(samples["train"], read["unlabeled"])
    if train_samples is not None:
        samples["train"] = cut(samples["train"], train_samples, strata, seed)
    for name, each in samples.items():
        if not len(each):
            raise _emptied(name, len(names), len(set(names)))
    asked = {
        "labeled": labeled,
        "validation": validation,
        "test": test,
        "train_samples": train_samples,
        "seed": seed,
        "native": [name for name in named if name != "train"],
    }
    known = any((samples[name].label != HIDDEN).any() for name in ("train", "val"))
    if targets.fields:
        samples = with_parts(budgeted(samples, labeled, strata, seed) if known or labeled != 1.0 else samples)
    else:
        samples = {"train": samples["train"], "labeled": samples["train"], **samples}
    if isinstance(source, Measured):
        seen = samples["labeled"].ids if "labeled" in samples else ()
        source = source.measured_on(samples["train"].ids, seen)
        natives = [source.split(name) for name in named]
    return Arranged(source, natives, samples, targets, asked)


def check_trainable(data: Arranged) -> None:
    """Raise DataError for a single training sample: a network with batch norm learns from no batch of one."""
    if len(data.split("train").ids) < 2:
        raise DataError(
            "split 'train' has 1 sample",
            expected="at least two",
            fix="Give more, or lower `validation` and `test` where they are carved from it.",
        )


def _read(split: Split, index: int, targets: Targets, with_targets: bool) -> Samples:
    ids = tuple(split.ids)
    n = len(ids)
    label = np.full(n, HIDDEN, dtype=np.int64)
    if with_targets and targets.fields and n:
        label = strata_in(split, targets).numpy().astype(np.int64)
    where = np.full(n, index, dtype=np.int64)
    return Samples(ids, where, np.arange(n, dtype=np.int64), label, np.ones(n, dtype=np.bool_))


def strata_in(split: Split, targets: Targets) -> Tensor:
    """(N,) int64. A split may have `labels` (N,), classes or other strata, which spares loading its samples."""
    offered = getattr(split, "labels", None)
    if isinstance(offered, Tensor) and len(offered) == len(split.ids):
        return offered.to(torch.int64)
    chunk, n = 256, len(split.ids)
    return torch.cat(
        [targets.strata(split.load(range(at, min(at + chunk, n))), targets.fields) for at in range(0, n, chunk)]
    ).to(torch.int64)


def _check_ids(read: Mapping[str, Samples]) -> None:
    owner: dict[str, str] = {}
    for name, each in read.items():
        for sample in each.ids:
            if not isinstance(sample, str):
                raise DataError(
                    f"split '{name}' has the sample id {sample!r}, no text", expected="stable ids, each a text"
                )
            if sample in owner:
                raise DataError(
                    f"sample id '{sample}' occurs twice (splits '{owner[sample]}' and '{name}')",
                    expected="ids that are unique within the data set",
                    fix="Remove the copy: a sample in train and test makes the result worthless.",
                )
            owner[sample] = name


def _classes(source: DataSource, read: Mapping[str, Samples]) -> tuple[str, ...]:
    stated = source.facts.get("classes")
    if stated:
        return tuple(str(name) for name in stated)
    most = max((int(each.label.max()) for each in read.values() if len(each)), default=-1)
    return tuple(str(i) for i in range(most + 1))


def _check_labels(name: str, each: Samples, classes: Sequence[str]) -> None:
    wrong = np.flatnonzero((each.label != HIDDEN) & ((each.label < 0) | (each.label >= len(classes))))
    if len(wrong):
        raise DataError(
            f"label {each.label[wrong[0]]} of sample '{each.ids[wrong[0]]}' in split '{name}' ({len(wrong)} like it)",
            expected=f"0..{len(classes) - 1} for the {len(classes)} classes",
        )


def _emptied(name: str, n_train: int, n_groups: int) -> DataError:
    key = {"val": "data.validation", "test": "data.test", "train": "data.train_samples"}[name]
    together = f", {n_groups} groups that stay together" if n_groups < n_train else ""
    return DataError(
        f"split '{name}' is empty",
        path=key,
        expected="at least one sample",
        fix=f"The data set's own 'train' has {n_train} samples{together}; change `{key.partition('.')[2]}` or give more.",
    )
