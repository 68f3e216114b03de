"""Metrics of segmentation: miou, pixel_accuracy, trimap_miou, boundary_f1.

All read a split in its order and add up over its images before they divide. Pixels whose class is not known are left out. Of an
image without any known pixel the teacher's likeliest classes stand in for them; without a teacher it is left out.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from kdsearch.builtin.passes import passes
from kdsearch.errors import DataError, PluginError
from kdsearch.kinds import HIDDEN, Batch, DataSource, Measurement, Metric, NoOptions, Options, Predict, Services
from kdsearch.kinds.options import O

CHUNK = 32  # images a forward pass, or fewer where they are large


@dataclass(frozen=True)
class Answers:
    """A chunk's judged images: the batch, classes answered (B, H, W), truth (B, H, W) with HIDDEN, and K."""

    batch: Batch
    found: Tensor
    truth: Tensor
    n_classes: int


def answers(predict: Predict, data: DataSource, split: str, services: Services) -> Iterator[Answers]:
    """The split's images with a known pixel, chunk by chunk. Raise DataError when none has one."""
    judged = 0
    for batch in passes(data, split, CHUNK, "mask", len(data.facts.get("classes", ()))):
        logits, truth = predict(batch)["logits"].detach().cpu(), batch["mask"].cpu()
        is_known = (truth != HIDDEN).flatten(1).any(1)
        if not is_known.all():
            try:
                stands_in = services.predict("teacher", batch)["logits"].argmax(1).cpu()
                truth, is_known = torch.where(is_known[:, None, None], truth, stands_in), torch.ones_like(is_known)
            except (PluginError, DataError, KeyError):  # no teacher of that name, or one that has no answer stored
                pass
        rows = is_known.nonzero()[:, 0]
        judged += len(rows)
        if len(rows):
            yield Answers(batch.rows(rows), logits[rows].argmax(1), truth[rows], logits.shape[1])
    if not judged:
        raise DataError(
            f"split '{split}' has {len(data.split(split).ids)} images and no mask",
            expected="masks, or a teacher whose answers stand in for them",
        )


class OfMasks(Metric[O]):
    """What images add is summed; the metric is a function of the sums, and its interval is of images drawn anew."""

    name: ClassVar[str]
    unit = "share"

    @abstractmethod
    def sums(self, each: Answers) -> Tensor:
        """(B, ...) what each image adds."""

    @abstractmethod
    def of(self, sums: Tensor) -> float:
        """The metric of sums or means over images (...)."""

    def measure(self, predict: Predict, data: DataSource, split: str, services: Services) -> dict[str, float]:
        rows = torch.cat([self.sums(each).double() for each in answers(predict, data, split, services)])
        values = {self.name: self.of(rows.mean(0)), "n": float(len(rows))}
        return Measurement(values, rows, self.of, self.of_classes(rows.mean(0)))

    def of_classes(self, sums: Tensor) -> Callable[[Collection[int]], float] | None:
        """The metric of a group of classes, where sums have a row a class."""
        return None


def mean_of_classes(sums: Tensor) -> Callable[[Collection[int]], float]:
    """Mean intersection over union of a group of classes."""
    return lambda classes: float(ious(sums)[sorted(classes)].nanmean())


class PixelAccuracy(OfMasks[NoOptions]):
    """Share of the known pixels whose class is answered right."""

    name = "pixel_accuracy"
    title = "pixel accuracy"

    def sums(self, each: Answers) -> Tensor:
        return torch.stack([(each.found == each.truth).sum((1, 2)), (each.truth != HIDDEN).sum((1, 2))], -1)

    def of(self, sums: Tensor) -> float:
        return float(sums[0] / sums[1])


class MeanIou(OfMasks[NoOptions]):
    """Intersection over union, mean over the classes that the split or the answers have, in [0, 1]."""

    name = "miou"
    title = "mIoU"

    def sums(self, each: Answers) -> Tensor:
        return overlaps(each.found, each.truth, each.n_classes)

    def of(self, sums: Tensor) -> float:
        return float(ious(sums).nanmean())

    def of_classes(self, sums: Tensor) -> Callable[[Collection[int]], float]:
        return mean_of_classes(sums)


class TrimapOptions(Options):
    radius: int = Field(2, ge=1, le=64, description="pixels: how far from another class a pixel counts")


class TrimapMeanIou(OfMasks[TrimapOptions]):
    """`miou` of the pixels near boundaries: those with a second class within a square of 2 radius + 1 pixels, in the truth.

    Kohli, Ladicky and Torr, IJCV 2009, judge a band around boundaries this way. Raises DataError where no image has a boundary.
    """

    name = "trimap_miou"
    title = "trimap mIoU"

    def sums(self, each: Answers) -> Tensor:
        return overlaps(each.found, near_boundaries(each.truth, self.options.radius), each.n_classes)

    def of(self, sums: Tensor) -> float:
        return float(ious(sums).nanmean())

    def measure(self, predict: Predict, data: DataSource, split: str, services: Services) -> dict[str, float]:
        found = super().measure(predict, data, split, services)
        if math.isnan(found[self.name]):
            problem = f"trimap_miou: no image of split '{split}' has a pixel near another class"
            raise DataError(problem, expected="masks of more than one class")
        return found

    def of_classes(self, sums: Tensor) -> Callable[[Collection[int]], float]:
        return mean_of_classes(sums)


class BoundaryOptions(Options):
    tolerance: int = Field(1, ge=0, le=64, description="pixels, the larger of both axes, that a boundary may be off")


class BoundaryF1(OfMasks[BoundaryOptions]):
    """F1 of boundary pixels within a tolerance (Csurka et al., BMVC 2013), mean over the classes that occur.

    A class's boundary is its mask without the erosion of that by 3x3 pixels; the frame of the image is none.
    """

    name = "boundary_f1"
    title = "boundary F1"

    def sums(self, each: Answers) -> Tensor:
        made = torch.zeros(len(each.truth), each.n_classes, 4)
        for row, (answer, mask) in enumerate(zip(known(each.found, each.truth), each.truth, strict=True)):
            for k in torch.unique(torch.cat([answer.flatten(), mask.flatten()])).tolist():
                if k != HIDDEN:  # one class of one image at a time: all of them are gigabytes
                    made[row, k] = self._of_class(answer == k, mask == k)
        return made

    def _of_class(self, answer: Tensor, truth: Tensor) -> Tensor:
        """(4,) of (H, W) bool: boundary pixels answered that are near a true one, those answered, the other way round."""
        near = 2 * self.options.tolerance + 1
        found, there = boundary(answer), boundary(truth)
        hits = [(a * F.max_pool2d(b, near, 1, near // 2)).sum() for a, b in ((found, there), (there, found))]
        return torch.stack([hits[0], found.sum(), hits[1], there.sum()])

    def of(self, sums: Tensor) -> float:
        hits, answered, found, there = sums.unbind(-1)
        precision, recall = hits / answered.clamp(min=1e-12), found / there.clamp(min=1e-12)
        scores = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
        occurs = (answered > 0) | (there > 0)
        return float(scores[occurs].mean()) if bool(occurs.any()) else 1.0


def overlaps(found: Tensor, truth: Tensor, n_classes: int) -> Tensor:
    """(B, K, 2) pixels in intersection and union of answer and truth, class by class, where the truth is known."""
    b = len(truth)
    is_known = truth != HIDDEN

    def counted(classes: Tensor, where: Tensor) -> Tensor:
        flat = torch.where(where, classes, n_classes).reshape(b, -1)
        found = torch.zeros(b, n_classes + 1, dtype=torch.int64)  # float32 counts to 2^24 alone
        return found.scatter_add_(1, flat, torch.ones_like(flat))[:, :-1]

    both = counted(truth, is_known & (found == truth))
    return torch.stack([both, counted(found, is_known) + counted(truth, is_known) - both], -1)


def ious(sums: Tensor) -> Tensor:
    """(K, 2) intersections and unions -> (K,), NaN where a class does not occur."""
    return sums[:, 0] / torch.where(sums[:, 1] > 0, sums[:, 1], torch.nan)


def known(found: Tensor, truth: Tensor) -> Tensor:
    """The answers, HIDDEN where the truth is."""
    return torch.where(truth == HIDDEN, HIDDEN, found)


def near_boundaries(truth: Tensor, radius: int) -> Tensor:
    """The truth where the square around a pixel has more than one known class, elsewhere HIDDEN."""
    side = 2 * radius + 1
    values, is_known = truth.float(), truth != HIDDEN
    largest = F.max_pool2d(values.masked_fill(~is_known, -torch.inf), side, 1, radius)
    smallest = -F.max_pool2d(-values.masked_fill(~is_known, torch.inf), side, 1, radius)
    return torch.where(is_known & (largest != smallest), truth, HIDDEN)


def boundary(mask: Tensor) -> Tensor:
    """(H, W) bool -> (1, H, W) float: 1 on its boundary."""
    each = mask[None].float()
    return each - -F.max_pool2d(-each, 3, 1, 1)
