"""Samples of one split that stay together, such as copies: groups, of which all samples go where one goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from kdsearch.engine.strata import Samples, Strata, order_by_hash
from kdsearch.errors import DataError
from kdsearch.kinds import HIDDEN, Split

Group = list[int]  # rows


def groups_in(split: Split) -> Sequence[str]:
    """(N,) the group of each sample by name. A split may have `groups`; without them each sample is one, by its id.

    Raises:
        DataError: there is not one for each sample.
    """
    offered: Sequence[str] = getattr(split, "groups", None) or split.ids
    if len(offered) != len(split.ids):
        raise DataError(f"{len(offered)} `groups` of {len(split.ids)} samples", expected="a name for each sample")
    return offered


class Groups:
    """The groups of a split that is carved, by stratum, and how many of each class are left for training.

    Args:
        names: (N,) of each sample's group. A group of one sample goes by the sample's id.
    """

    def __init__(self, samples: Samples, names: Sequence[str], strata: Strata) -> None:
        self._ids, self._names, self._labels = samples.ids, names, samples.label.tolist()
        members: dict[str, Group] = {}
        for row, name in enumerate(names):
            members.setdefault(name, []).append(row)
        self.by_stratum: list[list[Group]] = [[] for _ in range(strata.n + 1)]
        for group in members.values():
            self.by_stratum[self._stratum(group, strata.n)].append(group)
        several = [group for group in members.values() if len(group) > 1] if strata.is_class else []
        kept = {label for group in several for label in self._classes(group)}
        self._left = Counter(label for group in members.values() if kept for label in self._classes(group) & kept)

    def first(self, strata: Sequence[Sequence[Group]], sizes: Sequence[int], seed: int, purpose: str) -> list[int]:
        """Rows of the groups that come first in the order of hash(seed, purpose, name), out of training.

        A stratum gives the groups that fit into its size; what is then left of all sizes is filled from any stratum, those that
        gave nothing first. A class that has groups of several samples keeps one of its groups.
        """
        taken: list[int] = []
        rest: list[tuple[bool, list[Group]]] = []
        for groups, size in zip(strata, sizes, strict=True):
            rows, passed = self._fitting(self._ordered(groups, seed, purpose), size)
            taken += rows
            rest.append((bool(rows), passed))
        for gave in (False, True):
            passed = [group for given, groups in rest if given is gave for group in groups]
            if room := sum(sizes) - len(taken):
                taken += self._fitting(self._ordered(passed, seed, purpose), room)[0]
        return taken

    def _fitting(self, groups: list[Group], room: int) -> tuple[list[int], list[Group]]:
        """The rows of those that fit one after another, and those that were passed over."""
        taken: list[int] = []
        passed: list[Group] = []
        for at, group in enumerate(groups):
            if len(taken) == room:
                return taken, passed + groups[at:]
            kept = self._classes(group) & self._left.keys() if self._left else set()
            if len(taken) + len(group) > room or any(self._left[label] == 1 for label in kept):
                passed.append(group)
                continue
            taken += group
            self._left.subtract(kept)
        return taken, passed

    def _ordered(self, groups: Iterable[Group], seed: int, purpose: str) -> list[Group]:
        def name(group: Group) -> str:
            return self._names[group[0]] if len(group) > 1 else self._ids[group[0]]

        return sorted(groups, key=lambda group: order_by_hash(name(group), seed, purpose))

    def _stratum(self, group: Group, n: int) -> int:
        """That of most of its samples, the first among equals; n where nobody knows the label of one of them."""
        labels: list[int] = [self._labels[row] for row in group]
        if HIDDEN in labels:
            return n
        return labels[0] if len(labels) == 1 else max(sorted({*labels}), key=labels.count)

    def _classes(self, group: Group) -> set[int]:
        return {self._labels[row] for row in group} - {HIDDEN}
