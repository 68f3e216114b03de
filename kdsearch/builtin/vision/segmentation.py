"""Task `segmentation`: one of K classes for each pixel; pixels whose class is not known count nothing."""

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

MASK = "mask"


class SegmentationOptions(Options):
    label_smoothing: float = Option(0.0, ge=0, lt=1, description="share of the target spread evenly over all classes")


class Segmentation(Task[SegmentationOptions]):
    """Reads images of fixed size, and `mask` (B, H, W), int64, where HIDDEN is a pixel whose class nobody knows.

    Answers `logits` (B, K, H, W).
    """

    objective: ClassVar[str] = "miou"
    metrics: ClassVar[tuple[str, ...]] = ("miou", "pixel_accuracy", "trimap_miou", "boundary_f1")

    def io(self, fields: Sequence[Field], facts: Mapping[str, Any]) -> IO:
        """Raise DataError without images, without a field `mask` of their size, or with fewer than two `facts["classes"]`."""
        has = ", ".join(f"{each.name} ({each.kind}, {each.shape})" for each in fields) or "no field"
        images = tuple(each for each in fields if each.use == "input" and each.kind == "image")
        masks = [each.shape for each in fields if each.name == MASK and not each.torch_dtype.is_floating_point]
        if not images or None in images[0].shape:
            raise DataError(f"segmentation: the data set has {has}", expected="an image of fixed size")
        size = images[0].shape[-2:]
        if masks != [size]:
            expected = f"a field '{MASK}' of integers, {size[0]}x{size[1]} as the image is"
            raise DataError(f"segmentation: the data set has {has}", expected=expected)
        classes = facts.get("classes")
        if not isinstance(classes, Sequence) or isinstance(classes, str) or len(classes) < 2:
            raise DataError(f"segmentation: the data set's classes are {classes!r}", expected="two or more names")
        return IO(images, (Field("logits", "logits", (len(classes), *size), classes_at=0),))

    def strata(self, batch: Batch, targets: Sequence[Field]) -> Tensor:
        """(B,) the class that most of an image is of, the first class (most often the background) aside."""
        return main_class(batch[MASK])

    def loss(self, out: Outputs, batch: Batch) -> Tensor:
        """Mean cross entropy over the pixels with a known class, in nats."""
        mask = batch[MASK]
        known = (mask != HIDDEN).sum().clamp(min=1)
        smoothing = self.options.label_smoothing
        total = F.cross_entropy(out["logits"], mask, ignore_index=HIDDEN, reduction="sum", label_smoothing=smoothing)
        return total / known

    def truth(self, batch: Batch) -> Tensor | None:
        return batch.tensors.get(MASK)

    def dummy(self, io: IO, n: int, rng: Generator) -> Batch:
        """Noise with classes drawn uniformly, pixel by pixel."""
        n_classes, height, width = io.output("logits").sizes
        noise = super().dummy(io, n, rng)
        return noise.having(**{MASK: torch.randint(n_classes, (n, height, width), generator=rng)})

    def figures(self, predict: Predict, data: DataSource, split: str, services: Services) -> Sequence[Figure]:
        """Overlap by class."""
        from kdsearch.builtin.vision.mask_figures import mask_figures

        return mask_figures(predict, data, split, services)


def main_class(mask: Tensor) -> Tensor:
    """(B, H, W) classes -> (B,) int64: the one of most pixels, class 0 only where there is no other; HIDDEN where none is known."""
    flat = mask.flatten(1).to(torch.int64)
    most = int(flat.max()) + 1 if flat.numel() else 0
    if most < 1:
        return torch.full((len(mask),), HIDDEN)
    counts = torch.zeros(len(mask), most, dtype=torch.int64)
    counts.scatter_add_(1, flat.clamp(min=0), (flat != HIDDEN).to(torch.int64))
    found = torch.where(counts[:, 1:].sum(1) > 0, counts[:, 1:].argmax(1) + 1 if most > 1 else 0, 0)
    return torch.where(counts.sum(1) > 0, found, HIDDEN)
