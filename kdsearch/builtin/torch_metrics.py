"""Metrics of classification that torchmetrics has: one class, a line each.

All read a split in its order, with the teacher's class where a label is hidden (see `metrics`). Averages are over classes, each
weighing the same.
"""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import torch

from kdsearch.builtin.metrics import answers, functional
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
            value = getattr(functional(), self.function)(probs, targets, probs.shape[1])
        return {self.name: float(value), "n": float(len(targets))}


def _of(name: str, function: str, unit: str, about: str, title: str = "") -> type[OfTorchmetrics]:
    members: dict[str, Any] = {
        "name": name,
        "function": function,
        "unit": unit,
        "title": title,
        "__doc__": about,
        "__module__": __name__,
    }
    return type(name.title().replace("_", ""), (OfTorchmetrics,), members)


F1 = _of("f1", "multiclass_f1_score", "share", "Harmonic mean of precision and recall, mean over classes.", "macro F1")
Precision = _of(
    "precision", "multiclass_precision", "share", "Share of a class's answers that are right, mean over classes."
)
Recall = _of("recall", "multiclass_recall", "share", "Share of a class's samples that are found, mean over classes.")
Auroc = _of(
    "auroc",
    "multiclass_auroc",
    "share",
    "Area under the ROC curve, one class against the rest, mean over classes.",
    "AUROC",
)
AveragePrecision = _of(
    "average_precision", "multiclass_average_precision", "share", "Area under precision over recall, of classes."
)
CohenKappa = _of("cohen_kappa", "multiclass_cohen_kappa", "", "Agreement beyond chance, in [-1, 1] (Cohen, 1960).")
Matthews = _of(
    "matthews", "multiclass_matthews_corrcoef", "", "Correlation of answers and labels, in [-1, 1] (Matthews, 1975)."
)
