"""Task `classification`: one label a sample, softmax cross entropy; samples whose label is hidden count nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field as Option
from torch import Generator, Tensor
from torch.nn import functional as F

from kdsearch.errors import DataError
from kdsearch.kinds import (
    HIDDEN,
    IO,
    Batch,
    DataSource,
    Field,
    Figure,
    Options,
    Outputs,
    Predict,
    Services,
    Task,
)

LABEL = "label"


class ClassificationOptions(Options):
    label_smoothing: float = Option(0.0, ge=0, lt=1, description="share of the target spread evenly over all classes")


class Classification(Task[ClassificationOptions]):
    """Reads every input field of floats (images, vectors), of tokens and their mask, of categories, and `label` (B,), int64.

    Answers `logits` (B, K).
    """

    objective: ClassVar[str] = "accuracy"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)

    def io(self, fields: Sequence[Field], facts: Mapping[str, Any]) -> IO:
        """Raise DataError without floats or tokens, without a field `label`, or with fewer than two `facts["classes"]`."""
        inputs = tuple(each for each in fields if each.use == "input" and is_read(each))
        has = ", ".join(f"{each.name} ({each.kind}, {each.dtype})" for each in fields) or "no field"
        if all(each.kind in ("mask", "present") for each in inputs):
            expected = "a float input (an image or vector), or tokens"
            raise DataError(f"classification: the data set has {has}", expected=expected)
        if not any(each.name == LABEL and each.kind == "label" for each in fields):
            raise DataError(f"classification: the data set has {has}", expected=f"a field '{LABEL}' of kind label")
        classes = facts.get("classes")
        if not isinstance(classes, Sequence) or isinstance(classes, str) or len(classes) < 2:
            raise DataError(f"classification: the data set's classes are {classes!r}", expected="two or more names")
        return IO(inputs, (Field("logits", "logits", (len(classes),)),))

    def loss(self, out: Outputs, batch: Batch) -> Tensor:
        """Mean cross entropy over the samples with a known label, in nats."""
        labels = batch[LABEL]
        known = (labels != HIDDEN).sum().clamp(min=1)
        total = F.cross_entropy(
            out["logits"],
            labels,
            ignore_index=HIDDEN,
            reduction="sum",
            label_smoothing=self.options.label_smoothing,
        )
        return total / known

    def dummy(self, io: IO, n: int, rng: Generator) -> Batch:
        """Noise with labels drawn uniformly from all classes."""
        noise = super().dummy(io, n, rng)
        n_classes = io.output("logits").shape[0]
        assert n_classes is not None
        return noise.having(**{LABEL: torch.randint(n_classes, (n,), generator=rng)})

    def figures(self, predict: Predict, data: DataSource, split: str, services: Services) -> Sequence[Figure]:
        """Accuracy by class and the confusion matrix."""
        from kdsearch.builtin.class_figures import class_figures

        return class_figures(predict, data, split, services)


def is_read(field: Field) -> bool:
    """Other integers (an index, a time stamp) are nothing that a network could take as they are."""
    return field.torch_dtype.is_floating_point or field.kind in ("tokens", "mask", "present", "categories")
