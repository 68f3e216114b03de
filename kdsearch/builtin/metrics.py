"""Metrics of classification: accuracy, top5, balanced_accuracy, nll, ece.

All read a split in its order, some hundred samples at a time. Where a label is hidden, the teacher's most likely class stands
in for it; without a teacher such samples are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from kdsearch.errors import DataError, PluginError
from kdsearch.kinds import HIDDEN, Batch, DataSource, Measurement, Metric, NoOptions, Options, Predict, Services

CHUNK = 256  # samples a forward pass


def functional() -> Any:
    """torchmetrics, imported where it is used: it takes seconds, and `accuracy` alone is what every training process asks for."""
    import torchmetrics.functional.classification as found

    return found


@dataclass(frozen=True)
class Answers:
    """A chunk's judged samples: logits (N, K), targets (N,), and which targets are the teacher's instead of a label's."""

    logits: Tensor
    targets: Tensor
    stands_in: Tensor

    @property
    def hits(self) -> Tensor:
        return self.logits.argmax(1) == self.targets


def answers(predict: Predict, data: DataSource, split: str, services: Services) -> Iterator[Answers]:
    """The split's samples with a target, chunk by chunk. Raise DataError when none has one."""
    samples = data.split(split)
    judged = 0
    for start in range(0, len(samples.ids), CHUNK):
        batch = samples.load(range(start, min(start + CHUNK, len(samples.ids))))
        found = _judged(predict, batch, services)
        judged += len(found.targets)
        if len(found.targets):
            yield found
    if not judged:
        raise DataError(
            f"split '{split}' has {len(samples.ids)} samples and no label",
            expected="labels, or a teacher whose answers stand in for them",
        )


def _judged(predict: Predict, batch: Batch, services: Services) -> Answers:
    logits, targets = predict(batch)["logits"].detach().float().cpu(), batch["label"].cpu()
    hidden = targets == HIDDEN
    if hidden.any():
        targets = targets.clone()
        try:
            told = services.predict("teacher", batch)["logits"]
            if told.shape[1] != logits.shape[1]:
                raise DataError("the teacher answers other classes")
            targets[hidden] = told.argmax(1).cpu()[hidden]
        except (
            PluginError,
            DataError,
            KeyError,
        ):  # no teacher of that name or of these classes, or one that has no answer stored
            logits, targets, hidden = logits[~hidden], targets[~hidden], hidden[~hidden]
    return Answers(logits, targets, hidden)


def of_classes(each: Tensor, targets: Tensor) -> Callable[[Collection[int]], float]:
    """The mean of what samples (N,) add over those whose target is one of some classes; NaN where there is none."""

    def mean(classes: Collection[int]) -> float:
        return float(each[torch.isin(targets, torch.tensor(sorted(classes)))].double().mean())

    return mean


class Accuracy(Metric[NoOptions]):
    """Top-1 accuracy in [0, 1]; with hidden labels also `labeled_accuracy` and `teacher_agreement`, its two parts."""

    unit = "share"
    proportion: ClassVar[bool] = True

    def measure(self, predict: Predict, data: DataSource, split: str, services: Services) -> dict[str, float]:
        rows = [(each.hits, each.targets, each.stands_in) for each in answers(predict, data, split, services)]
        hits, targets, stands_in = (torch.cat(each) for each in zip(*rows, strict=True))
        n, n_hidden = len(hits), int(stands_in.sum())
        found = Measurement({"accuracy": int(hits.sum()) / n, "n": float(n)}, of_classes=of_classes(hits, targets))
        if n_hidden:
            found["teacher_agreement"] = int(hits[stands_in].sum()) / n_hidden
        if 0 < n_hidden < n:
            found["labeled_accuracy"] = int(hits[~stands_in].sum()) / (n - n_hidden)
        return found


class Top5(Metric[NoOptions]):
    """Share of samples whose target is among the five largest logits (all K where K < 5)."""

    unit = "share"
    proportion: ClassVar[bool] = True
    reads_scores: ClassVar[bool] = True

    def measure(self, predict: Predict, data: DataSource, split: str, services: Services) -> dict[str, float]:
        rows = [(_among_five(each), each.targets) for each in answers(predict, data, split, services)]
        hits, targets = (torch.cat(each) for each in zip(*rows, strict=True))
        return Measurement(
            {"top5": int(hits.sum()) / len(hits), "n": float(len(hits))}, of_classes=of_classes(hits, targets)
        )


def _among_five(each: Answers) -> Tensor:
    """(N,) bool."""
    top = each.logits.topk(min(5, each.logits.shape[1]), dim=1).indices
    return (top == each.targets[:, None]).any(1)


class BalancedAccuracy(Metric[NoOptions]):
    """Mean recall over the classes that occur in the split."""

    unit = "share"

    def measure(self, predict: Predict, data: DataSource, split: str, services: Services) -> dict[str, float]:
        counts = sum(
            (
                functional().multiclass_confusion_matrix(each.logits, each.targets, each.logits.shape[1])
                for each in answers(predict, data, split, services)
            ),
            torch.zeros((), dtype=torch.int64),
        )
        support = counts.sum(1)  # (K,), rows are targets
        recall = counts.diag().double() / support  # NaN of a class that does not occur
        values = {"balanced_accuracy": float(recall.nanmean()), "n": float(support.sum())}
        return Measurement(values, of_classes=lambda classes: float(recall[sorted(classes)].nanmean()))


class NegativeLogLikelihood(Metric[NoOptions]):
    """Mean -log p(target) in nats, lower is better."""

    direction: ClassVar[Literal["max", "min"]] = "min"
    unit = "nats"
    reads_scores: ClassVar[bool] = True

    def measure(self, predict: Predict, data: DataSource, split: str, services: Services) -> dict[str, float]:
        rows = [
            (F.cross_entropy(each.logits.double(), each.targets, reduction="none"), each.targets)
            for each in answers(predict, data, split, services)
        ]
        losses, targets = (torch.cat(each) for each in zip(*rows, strict=True))
        values = {"nll": float(losses.mean()), "n": float(len(losses))}
        return Measurement(values, losses, of_classes=of_classes(losses, targets))


class CalibrationOptions(Options):
    bins: int = Field(15, ge=1, description="equal intervals of confidence")


class CalibrationError(Metric[CalibrationOptions]):
    """Expected calibration error, L1, lower is better (Guo et al., ICML 2017, eq. 3)."""

    direction: ClassVar[Literal["max", "min"]] = "min"
    unit = "share"
    reads_scores: ClassVar[bool] = True

    def measure(self, predict: Predict, data: DataSource, split: str, services: Services) -> dict[str, float]:
        every = list(answers(predict, data, split, services))
        sure = torch.cat([each.logits for each in every]).double().softmax(1).amax(1)
        hits = torch.cat([each.hits for each in every]).double()
        bins = self.options.bins
        at = ((sure * bins).ceil().long() - 1).clamp(0, bins - 1)
        gaps = torch.zeros(bins, dtype=torch.float64).index_add_(
            0, at, hits - sure
        )  # of each bin, its size times acc - conf
        return {"ece": float(gaps.abs().sum() / len(sure)), "n": float(len(sure))}
