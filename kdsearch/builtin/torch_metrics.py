"""Metrics of classification that torchmetrics has: one class, a line each.

All read a split in its order, with the teacher's class where a label is hidden (see `metrics`). Averages are over classes, each
weighing the same.
"""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import torch
from torch import Tensor

from kdsearch.builtin.metrics import answers, functional
from kdsearch.errors import DataError
from kdsearch.kinds import DataSource, Metric, NoOptions, Predict, Services


class OfTorchmetrics(Metric[NoOptions]):
    """`function` of torchmetrics.functional.classification, handed probabilities (N, K) and targets (N,)."""

    name: ClassVar[str]
    function: ClassVar[str]

    def measure(self, predict: Predict, data: DataSource, split: str, services: Services) -> dict[str, float]:
        every = list(answers(predict, data, split, services))
        probs = torch.cat([each.logits for each in every]).double().softmax(1)
        targets = torch.cat([each.targets for each in every])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of classes that the split does not have, which count nothing or 0
            value = self.of(getattr(functional(), self.function), probs, targets)
        return {self.name: float(value), "n": float(len(targets))}

    def of(self, function: Any, probs: Tensor, targets: Tensor) -> Tensor:
        return function(probs, targets, probs.shape[1])  # type: ignore[no-any-return]


def _of(
    name: str, function: str, unit: str, about: str, title: str = "", reads_scores: bool = False
) -> type[OfTorchmetrics]:
    members: dict[str, Any] = {
        "name": name,
        "function": function,
        "unit": unit,
        "title": title,
        "reads_scores": reads_scores,
        "__doc__": about,
        "__module__": __name__,
    }
    return type(name.title().replace("_", ""), (OfTorchmetrics,), members)


F1 = _of("f1", "multiclass_f1_score", "share", "Harmonic mean of precision and recall, mean over classes.", "macro F1")
Precision = _of(
    "precision", "multiclass_precision", "share", "Share of a class's answers that are right, mean over classes."
)
Recall = _of("recall", "multiclass_recall", "share", "Share of a class's samples that are found, mean over classes.")


class Auroc(OfTorchmetrics):
    """Area under the ROC curve, one class against the rest, mean over the classes that the split has."""

    name = "auroc"
    function = "multiclass_auroc"
    unit = "share"
    title = "AUROC"
    reads_scores = True

    def of(self, function: Any, probs: Tensor, targets: Tensor) -> Tensor:
        """Raise DataError for a split of one class, which has nothing to be told from."""
        each = function(probs, targets, probs.shape[1], average="none")  # 0 of a class that the split lacks
        counts = targets.bincount(minlength=probs.shape[1])
        has_both = (counts > 0) & (counts < len(targets))
        if not bool(has_both.any()):
            problem = f"auroc: all {len(targets)} samples that are judged are of class {int(targets[0])}"
            raise DataError(problem, expected="samples of two classes or more")
        found: Tensor = each[has_both].mean()
        return found


AveragePrecision = _of(
    "average_precision",
    "multiclass_average_precision",
    "share",
    "Area under precision over recall, of classes.",
    reads_scores=True,
)
CohenKappa = _of("cohen_kappa", "multiclass_cohen_kappa", "", "Agreement beyond chance, in [-1, 1] (Cohen, 1960).")
Matthews = _of(
    "matthews", "multiclass_matthews_corrcoef", "", "Correlation of answers and labels, in [-1, 1] (Matthews, 1975)."
)
