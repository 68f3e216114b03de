"""Images with a class for each pixel, in memory or decoded on demand: one split class for every such data set."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kdsearch.builtin.datasets.augment import Augmentation, augmented
from kdsearch.builtin.datasets.images import (
    ImageOptions,
    ImageSource,
    Part,
    Standard,
    check_wanted,
    content,
    measured,
    preprocessing,
)
from kdsearch.builtin.datasets.pixels import Pixels
from kdsearch.builtin.vision.segmentation import MASK, main_class
from kdsearch.errors import DataError
from kdsearch.kinds import HIDDEN, Batch, Field, Normalization

VOID = 255  # in stored masks: a pixel whose class is not known
CLASSES = VOID  # at most
CHUNK = 256  # masks looked at at once


@dataclass(frozen=True)
class MaskPart:
    """One split before it is opened: its images, whose `labels` are their main classes, and masks (N, 1, H, W) uint8."""

    images: Part
    masks: Pixels


class MaskSplit:
    """Samples of `image` (C, H, W) float32, standardised, and `mask` (H, W) int64. `labels` (N,): each image's main class."""

    def __init__(self, part: MaskPart, standard: Standard, augmentation: Augmentation) -> None:
        self.labels, self.groups = part.images.labels, part.images.groups
        self._part, self._standard, self._augmentation = part, standard, augmentation

    @property
    def ids(self) -> Sequence[str]:
        return self._part.images.ids

    def load(self, index: Sequence[int], augment: bool = False, seed: int = 0) -> Batch:
        """What augmentation moves in from beyond the border is black, and of no known class."""
        ids = tuple(self.ids[i] for i in index)
        images, masks = self._part.images.pixels(index), self._part.masks(index)
        if augment and self._augmentation != "none" and ids:
            shifted = masks + 1  # VOID is 0, as what is beyond the border
            both = augmented(torch.cat([images, shifted], 1), ids, seed, self._augmentation)
            images, masks = both[:, :-1], both[:, -1:] - 1
        mask = masks[:, 0].to(torch.int64)
        return Batch(ids, {"image": self._standard(images), MASK: torch.where(mask == VOID, HIDDEN, mask)})


class MaskSource(ImageSource):
    """An opened data set of images and masks. The names of its classes go along with every student."""

    def files(self) -> dict[str, bytes]:
        return {"classes.txt": "".join(f"{name}\n" for name in self.facts["classes"]).encode()}


def main_classes(masks: Pixels) -> Tensor:
    """(N,) int64, see `main_class`."""
    found = [torch.zeros(0, dtype=torch.int64)]
    for start in range(0, len(masks), CHUNK):
        mask = masks(range(start, min(start + CHUNK, len(masks))))[:, 0].to(torch.int64)
        found.append(main_class(torch.where(mask == VOID, HIDDEN, mask)))
    return torch.cat(found)


def mask_source(
    parts: Mapping[str, MaskPart], classes: Sequence[str], options: ImageOptions, facts: Mapping[str, Any]
) -> ImageSource:
    """Measure mean and std on `train` without augmentation, and open.

    Raises:
        DataError: a split of other sizes or channels than train's.
    """
    shapes = {name: tuple(part.images.pixels([0]).shape[1:]) for name, part in parts.items()}
    for name, shape in shapes.items():
        if shape != shapes["train"]:
            told = ["x".join(map(str, each)) for each in (shape, shapes["train"])]
            raise DataError(
                f"split '{name}' has images of {told[0]}, 'train' of {told[1]}",
                file=parts[name].images.file,
                expected="one size and number of channels in every split",
                fix="Set `resize` and `channels` in data.options.",
            )
    whole = hashlib.sha256(content({name: part.images for name, part in parts.items()}).encode())
    for part in parts.values():
        whole.update(_digest(part.masks))
    return _opened(parts, classes, options, {**facts, "content": whole.hexdigest()}, None, None)


def _digest(masks: Pixels) -> bytes:
    stated = getattr(masks, "content", None)
    if stated is not None:
        return str(stated).encode()
    digest = hashlib.sha256()
    for start in range(0, len(masks), CHUNK):
        digest.update(masks(range(start, min(start + CHUNK, len(masks)))).contiguous().numpy().data)
    return digest.digest()


def _opened(
    parts: Mapping[str, MaskPart],
    classes: Sequence[str],
    options: ImageOptions,
    facts: Mapping[str, Any],
    ids: Collection[str] | None,
    wanted: Normalization | None,
) -> ImageSource:
    """Mean and std as `wanted`, else from the samples `ids` of `train`; None = all of them."""
    train = parts["train"].images
    standard = measured(train, ids)
    if wanted is not None:
        check_wanted(wanted, standard, train.file)
        standard = standard.given(wanted)
    c, h, w = train.pixels([0]).shape[1:]
    told = {
        **facts,
        "classes": list(classes),
        "samples": {name: len(part.images.ids) for name, part in parts.items()},
        "preprocessing": preprocessing(standard, (c, h, w), options, facts),
    }
    fields = (Field("image", "image", (c, h, w)), Field(MASK, "map", (h, w), "int64", "target", len(classes)))
    splits = {name: MaskSplit(part, standard, options.augment) for name, part in parts.items()}
    return MaskSource(
        fields, told, splits, lambda chosen, how: _opened(parts, classes, options, facts, chosen, how), wanted
    )


def without_labels(part: Part) -> Part:
    """The images of a split whose masks are not known."""
    return replace(part, labels=torch.full((len(part.ids),), HIDDEN))
