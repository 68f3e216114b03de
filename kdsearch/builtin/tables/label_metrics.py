"""Metrics of several labels: macro_f1, micro_f1, map, by torchmetrics. A label is there where its score is above 0.

All read a split in its order. Labels that are not known are left out; the teacher's word does not stand in for them.
"""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import torch
from torch import Tensor

from kdsearch.errors import DataError
from kdsearch.kinds import HIDDEN, DataSource, Measurement, Metric, NoOptions, Predict, Services

CHUNK = 256  # samples a forward pass


def functional() -> Any:
    """torchmetrics, imported where it is used: it takes seconds."""
    import torchmetrics.functional.classification as found

    return found


def answers(predict: Predict, data: DataSource, split: str) -> tuple[Tensor, Tensor]:
    """(probabilities, labels), (N, K), of the samples with a label that is known; others of theirs are HIDDEN.

    Raise DataError when there is none.
    """
    samples = data.split(split)
    rows = []
    for start in range(0, len(samples.ids), CHUNK):
        batch = samples.load(range(start, min(start + CHUNK, len(samples.ids))))
        labels = batch["labels"].cpu()
        known = (labels != HIDDEN).any(1)
        rows.append((predict(batch)["scores"].detach().double().cpu().sigmoid()[known], labels[known]))
    probs, labels = (torch.cat(each) for each in zip(*rows, strict=True)) if rows else (torch.zeros(0), torch.zeros(0))
    if not len(labels):
        raise DataError(
            f"split '{split}' has {len(samples.ids)} samples and no known label", expected="labels to compare with"
        )
    return probs, labels


class MacroF1(Metric[NoOptions]):
    """Harmonic mean of precision and recall, of each label by itself, their mean: rare labels weigh as much as frequent ones."""

    title = "macro F1"
    unit = "share"
    average: ClassVar[str] = "macro"

    def measure(self, predict: Predict, data: DataSource, split: str, services: Services) -> dict[str, float]:
        probs, labels = answers(predict, data, split)
        found = functional().multilabel_f1_score(
            probs, labels, probs.shape[1], average=self.average, ignore_index=HIDDEN
        )
        name = f"{self.average}_f1"
        said, truth, known = probs > 0.5, labels == 1, labels != HIDDEN
        counts = [said & truth, said & ~truth & known, ~said & truth]  # hits, false alarms, misses
        return Measurement({name: float(found), "n": float(len(labels))}, torch.stack(counts, 1).double(), self.of)

    def of(self, mean: Tensor) -> float:
        """F1 of mean counts (3, K)."""
        hits, alarms, misses = mean if self.average == "macro" else mean.sum(1)
        both = 2 * hits + alarms + misses
        return float(torch.where(both > 0, 2 * hits / both.clamp(min=1e-12), 0.0).mean())


class MicroF1(MacroF1):
    """Harmonic mean of precision and recall over all labels of all samples."""

    title = "micro F1"
    average: ClassVar[str] = "micro"


class MeanAveragePrecision(Metric[NoOptions]):
    """Area under precision over recall of each label by itself, the mean over labels that occur: no threshold is read.

    Raises DataError where none occurs.
    """

    title = "mAP"
    unit = "share"

    def measure(self, predict: Predict, data: DataSource, split: str, services: Services) -> dict[str, float]:
        probs, labels = answers(predict, data, split)
        occurs = (labels == 1).any(0)
        if not bool(occurs.any()):
            problem = f"map: none of the {len(occurs)} labels occurs in the {len(labels)} samples of split '{split}'"
            raise DataError(problem, expected="a label that some sample has")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of labels that no sample of the split has, which are left out
            found = functional().multilabel_average_precision(
                probs, labels, probs.shape[1], average="none", ignore_index=HIDDEN
            )
        return {"map": float(found[occurs].mean()), "n": float(len(labels))}
