"""Task `multilabel`: any of K labels at once, each yes or no by itself; what is not known counts nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from kdsearch.builtin.tables.inputs import inputs_of
from kdsearch.builtin.tables.label_figures import label_figures
from kdsearch.errors import DataError
from kdsearch.kinds import (
    HIDDEN,
    IO,
    Batch,
    DataSource,
    Field,
    Figure,
    NoOptions,
    Outputs,
    Predict,
    Services,
    Task,
)

LABELS, SCORES = "labels", "scores"
GROUPS = 32  # of label sets that splits are shared out over


class Multilabel(Task[NoOptions]):
    """Reads every input field of floats, categories, tokens and their mask, and `labels` (B, K) of 0, 1 or HIDDEN.

    Answers `scores` (B, K): a label is there where its score is above 0, its probability sigmoid(score) above a half. The loss is
    binary cross entropy, each label by itself.
    """

    objective: ClassVar[str] = "macro_f1"
    metrics: ClassVar[tuple[str, ...]] = ("macro_f1", "micro_f1", "map")

    def io(self, fields: Sequence[Field], facts: Mapping[str, Any]) -> IO:
        """Raise DataError without an input, or without a field `labels` (K,) of integers."""
        inputs = inputs_of(fields, "multilabel")
        found = [each for each in fields if each.name == LABELS and each.use == "target"]
        if not found or len(found[0].shape) != 1 or found[0].torch_dtype.is_floating_point:
            has = ", ".join(f"{each.name} ({each.kind}, {each.dtype})" for each in fields) or "no field"
            raise DataError(f"multilabel: the data set has {has}", expected=f"a target '{LABELS}' (K,) of integers")
        return IO(inputs, (Field(SCORES, "scores", found[0].shape),))

    def strata(self, batch: Batch, targets: Sequence[Field]) -> Tensor:
        """Equal sets of labels are in one of 32 groups, by the set's digest: frequent sets are shared out in proportion."""
        made = []
        for row in batch[LABELS].tolist():
            text = "".join("1" if each == 1 else "0" for each in row)
            group = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest()) % GROUPS
            made.append(HIDDEN if all(each == HIDDEN for each in row) else group)
        return torch.tensor(made, dtype=torch.int64)

    def loss(self, out: Outputs, batch: Batch) -> Tensor:
        """Mean binary cross entropy over the labels that are known, in nats."""
        labels = batch[LABELS]
        known = labels != HIDDEN
        each = F.binary_cross_entropy_with_logits(out[SCORES], labels.clamp(min=0).to(out[SCORES]), reduction="none")
        return torch.where(known, each, 0.0).sum() / known.sum().clamp(min=1)

    def dummy(self, io: IO, n: int, rng: Generator) -> Batch:
        """Noise with each label there half the time."""
        shape = (n, *io.output(SCORES).sizes)
        return super().dummy(io, n, rng).having(**{LABELS: torch.randint(2, shape, generator=rng)})

    def figures(self, predict: Predict, data: DataSource, split: str, services: Services) -> Sequence[Figure]:
        """F1, precision and recall of each label."""
        return label_figures(predict, data, split)
