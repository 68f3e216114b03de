"""The part of a split that shows some classes, with the targets of no other: what a phase of class-incremental training is fed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from kdsearch.engine.setup import LiveSetup
from kdsearch.errors import DataError
from kdsearch.kinds import Batch, Feed, Field, Split, Task
from kdsearch.kinds.targets import is_class

CHUNK = 256  # samples that are looked at together


def split_of(setup: LiveSetup, feed: Feed, name: str = "") -> Split:
    """The samples of a feed; of the split `name` as the feed would have it, if one is named.

    Raises:
        DataError: none shows one of its classes.
        PluginError: the task has no classes.
    """
    split = setup.data.split(name or feed.split)
    if feed.classes is None:
        return split
    return OfClasses(split, setup.task, setup.task.targets(setup.data.fields), feed.classes, name or feed.split)


class OfClasses:
    """The samples that show one of the classes, in the split's order."""

    def __init__(
        self, split: Split, task: Task[Any], targets: Sequence[Field], classes: Collection[int], name: str = ""
    ) -> None:
        self._split, self._task, self._targets, self._classes = split, task, targets, frozenset(classes)
        self._rows = self._shown().nonzero()[:, 0].tolist()
        self.ids = tuple(split.ids[row] for row in self._rows)
        if not self.ids:
            raise DataError(
                f"no sample of split '{name}' shows one of the classes {', '.join(map(str, sorted(self._classes)[:8]))}",
                expected="classes of the data set that are not hidden",
            )

    def _shown(self) -> Tensor:
        """(N,) bool. Samples are loaded for it unless their classes are known."""
        labels, whole = getattr(self._split, "labels", None), Task.of_classes
        if isinstance(labels, Tensor) and is_class(self._targets) and type(self._task).of_classes is whole:
            return torch.isin(labels, torch.tensor(sorted(self._classes), dtype=labels.dtype))
        n = len(self._split.ids)
        chunks = (self._split.load(range(at, min(at + CHUNK, n))) for at in range(0, n, CHUNK))
        return torch.cat([self._of(batch)[1].cpu() for batch in chunks]) if n else torch.zeros(0, dtype=torch.bool)

    def _of(self, batch: Batch) -> tuple[Batch, Tensor]:
        return self._task.of_classes(batch, self._classes, self._targets)

    def load(self, index: Sequence[int], augment: bool = False, seed: int = 0) -> Batch:
        return self._of(self._split.load([self._rows[i] for i in index], augment, seed))[0]
