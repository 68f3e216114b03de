"""How many samples of each class go where, and which: shares for validation and test, a cut of training, a budget of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from kdsearch.engine.groups import Groups
from kdsearch.engine.strata import Samples, Strata, apportion, by_class, first_by_hash
from kdsearch.errors import DataError
from kdsearch.kinds import HIDDEN


def carved(
    read: Mapping[str, Samples], names: Sequence[str], strata: Strata, validation: float, test: float, seed: int
) -> dict[str, Samples]:
    """`train`, `val` and `test`, the last two carved from `train` by these shares where the source has none.

    A test split is of samples that have a target, where any have one: all that is judged on it is judged on the same.

    Args:
        names: of the group of each sample of `train`; a group goes whole.
    """
    shares = {"test": test, "val": validation}
    carve = {name: share for name, share in shares.items() if name not in read}
    if sum(carve.values()) >= 1:
        raise DataError(
            f"validation {validation} + test {test} leave no training samples",
            path="data.validation",
            expected="shares that add up to less than 1",
        )
    pool, n = read["train"], len(read["train"])
    taken = np.zeros(n, dtype=np.bool_)
    held: dict[str, Samples] = {}
    groups = Groups(pool, names, strata)
    known = sum(len(group) for each in groups.by_stratum[:-1] for group in each)
    for name, share in carve.items():
        left = [[group for group in each if not taken[group[0]]] for each in groups.by_stratum]
        if name == "test" and known:
            left[-1] = []
        # every class that can spare one is held out too: one stays for training
        least = [min(1, max(0, len(each) - 1)) for each in left]
        total = max(round(share * (known if name == "test" and known else n)), 0)
        sizes = apportion(total, [sum(map(len, each)) for each in left], [min(m, total) for m in least])
        chosen = groups.first(left, sizes, seed, name)
        taken[chosen] = True
        held[name] = pool.at(chosen)
    rest = pool.at(np.flatnonzero(~taken).tolist())
    return {"train": rest, **{name: held[name] if name in held else read[name] for name in ("val", "test")}}


def joined(train: Samples, more: Samples) -> Samples:
    """One after the other."""
    return Samples(
        train.ids + more.ids,
        np.concatenate([train.source, more.source]),
        np.concatenate([train.row, more.row]),
        np.concatenate([train.label, more.label]),
        np.concatenate([train.seen, more.seen]),
    )


def cut(train: Samples, n: int, strata: Strata, seed: int) -> Samples:
    """n of them, of every stratum in proportion. Raise DataError where that cannot be."""
    if n > len(train):
        raise DataError(
            f"train_samples {n}, but there are {len(train)} training samples",
            path="data.train_samples",
            expected=f"at most {len(train)}",
            fix="Lower it, or remove it to use all.",
        )
    groups = by_class(train, strata.n)
    least = [min(1, len(group)) for group in groups[:-1]] + [0]
    if n < sum(least) and not strata.is_class:
        least = [0] * len(groups)
    if n < sum(least):
        raise DataError(
            f"train_samples {n} is less than one for each of {sum(least)} classes",
            path="data.train_samples",
            expected=f"at least {sum(least)}",
        )
    sizes = apportion(n, [len(group) for group in groups], least)
    return train.at(
        row
        for group, size in zip(groups, sizes, strict=True)
        for row in first_by_hash(train, group, size, seed, "train")
    )


def budgeted(samples: Mapping[str, Samples], labeled: float | int, strata: Strata, seed: int) -> dict[str, Samples]:
    """The targets of `train` and `val` that the study sees. Raise DataError for a budget that is too large or too small."""
    groups = {name: by_class(samples[name], strata.n)[:-1] for name in ("train", "val")}
    cells = groups["train"] + groups["val"]
    sizes = [len(cell) for cell in cells]
    known = sum(sizes)
    budget = labeled if isinstance(labeled, int) else round(labeled * known)
    if budget > known:
        raise DataError(
            f"labeled {labeled}, but only {known} samples outside test have {strata.known} "
            f"({sum(sizes[: strata.n])} in train, {sum(sizes[strata.n :])} in val)",
            path="data.labeled",
            expected=f"at most {known}, or a share such as 1.0 for all",
        )
    classes = sum(1 for size in sizes[: strata.n] if size) or strata.n
    needed = classes if strata.is_class else 1
    if budget < needed or not any(sizes[: strata.n]):
        means = f"{budget} labels for {classes} classes" if strata.is_class else f"{budget} samples with {strata.known}"
        raise DataError(
            f"labeled {labeled} means {means}, those for selection included",
            path="data.labeled",
            expected=f"at least {needed} of the {known} samples outside test",
            fix=f"Set `labeled: {max(2 * needed, 1)}` or more, or a share such as 0.1; 1.0 means all.",
        )
    least = [min(1, size) for size in sizes]
    if budget < sum(least):
        least[strata.n :] = [0] * strata.n
    if budget < sum(least):  # of groups that are no classes some may go without
        least = [0] * len(least)
    parts = apportion(budget, sizes, least)
    made = dict(samples)
    for k, name in enumerate(("train", "val")):
        each, mine = samples[name], parts[k * strata.n : (k + 1) * strata.n]
        seen = np.zeros(len(each), dtype=np.bool_)
        for cell, size in zip(groups[name], mine, strict=True):
            seen[first_by_hash(each, cell, size, seed, "label")] = True
        made[name] = replace(each, seen=seen)
    return made


def with_parts(samples: Mapping[str, Samples]) -> dict[str, Samples]:
    """`labeled` and `unlabeled` added beside train, where they hold anything."""
    train = samples["train"]
    visible = train.visible
    parts = {
        "labeled": train.at(np.flatnonzero(visible != HIDDEN).tolist()),
        "unlabeled": train.at(np.flatnonzero(visible == HIDDEN).tolist()),
    }
    ordered = {"train": train, **{name: each for name, each in parts.items() if len(each)}}
    return {**ordered, **{name: each for name, each in samples.items() if name != "train"}}
