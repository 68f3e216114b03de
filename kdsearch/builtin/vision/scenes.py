"""Data set `scenes`: articles of clothing of Fashion-MNIST, pasted before photographs, with the class of every pixel.

Composed: objects and backgrounds are real, they hide one another, and masks are exact. An object is where its image is
brighter than 15 of 255.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field as Option

from kdsearch.builtin.datasets.augment import Augmentation
from kdsearch.builtin.datasets.folder import decode
from kdsearch.builtin.datasets.idx import FashionMnist, IdxOptions
from kdsearch.builtin.datasets.images import ImageOptions, Part
from kdsearch.builtin.datasets.pixels import Stored, as_images, fitted
from kdsearch.builtin.packages import PACKAGES, PHOTOS
from kdsearch.builtin.vision.masks import VOID, MaskPart, main_classes, mask_source
from kdsearch.kinds import Dataset, DataSource, Options, Services
from kdsearch.kit.packages import package_file

Array = np.ndarray[Any, Any]
SPLITS = ("train", "val", "test")
OF_TRAIN = 5 / 6  # of the objects of the training images; the others are those of validation
LEFT = 0.6  # of a photograph, for training; what is right of it is behind the others' objects
INK = 15  # of 255, above which a pixel is the object's
COLOURS = ((1, 0.1, 0.1), (0.1, 0.8, 0.1), (0.15, 0.25, 1), (1, 0.9, 0.1), (0.7, 0.15, 0.8), (1, 1, 1))
MERGED = (0, 1, 0, 2, 0, 3, 0, 4, 5, 6)  # ten classes -> seven: what is worn above is one
SEVEN = ("top", "trouser", "dress", "sandal", "sneaker", "bag", "ankle boot")


class ScenesOptions(Options):
    path: str | None = Option(None, description="folder of Fashion-MNIST's IDX files; null = known places")
    side: int = Option(64, ge=16, le=512, description="pixels; objects are scaled along")
    train: int = Option(1500, ge=1, le=1_000_000, description="scenes")
    val: int = Option(400, ge=1, le=1_000_000, description="scenes of further objects: a sixth of the training images")
    test: int = Option(400, ge=1, le=1_000_000, description="scenes of the objects of Fashion-MNIST's test split")
    classes: Literal[7, 10] = Option(10, description="besides the background; 7 = all that is worn above is one class")
    void: bool = Option(False, description="a pixel on either side of every boundary is of no known class")
    channels: Literal[1, 3] = Option(3, description="1 = grey, 3 = RGB")
    augment: Augmentation = Option(
        "none", description="of training images with their masks, as in every image data set"
    )
    seed: int = Option(0, ge=0, lt=2**32, description="another one draws other scenes")


class Scenes(Dataset[ScenesOptions]):
    """Scenes of one to four articles, 3/4 or more of each inside; later ones cover earlier ones."""

    task = "segmentation"

    def __init__(self, options: ScenesOptions) -> None:
        super().__init__(options)
        self.augments = options.augment != "none"
        self._objects = FashionMnist(IdxOptions(path=options.path))

    def preflight(self, services: Services) -> None:
        self._objects.preflight(services)
        for wanted in PHOTOS:
            package_file("scenes", PACKAGES["scenes"], wanted)

    def open(self, services: Services) -> DataSource:
        o = self.options
        photos = [decode(package_file("scenes", PACKAGES["scenes"], each), 3, None) for each in PHOTOS]
        articles = self._objects.arrays(services)
        parts: dict[str, MaskPart] = {}
        for number, split in enumerate(SPLITS):
            images, labels, _ = articles["test" if split == "test" else "train"]
            cut = round(OF_TRAIN * len(images))
            chosen = {"train": slice(cut), "val": slice(cut, None), "test": slice(None)}[split]
            behind = [_side(photo.permute(1, 2, 0).numpy(), split == "train") for photo in photos]
            made = [
                scene(np.random.default_rng([o.seed, number, i]), behind, images[chosen], labels[chosen], o.side)
                for i in range(getattr(o, split))
            ]
            pixels = fitted(as_images(np.stack([each for each, _ in made])), None, o.channels)
            masks = np.stack([each for _, each in made])
            if o.classes == 7:
                masks = np.array([0, *(1 + k for k in MERGED)], np.uint8)[masks]
            if o.void:
                masks = np.where(_is_edge(masks), np.uint8(VOID), masks)
            stored = Stored(torch.from_numpy(masks)[:, None])
            ids = tuple(f"scenes-{o.seed}-{split}-{i:05d}" for i in range(len(made)))
            part = Part(ids, Stored(pixels), main_classes(stored), "scenes")
            parts[split] = MaskPart(part, stored)
        names = ("background", *(SEVEN if o.classes == 7 else FashionMnist.classes))
        given = ImageOptions(channels=o.channels, augment=o.augment)
        return mask_source(parts, names, given, {"name": "scenes", **ORIGIN})


ORIGIN: Mapping[str, str] = {
    "source": "composed: objects of Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, Zalando SE) before two photographs of "
    "Daniel Buechele (in scikit-learn)",
    "licence": "Fashion-MNIST MIT; photographs CC BY 2.0",
}


def scene(
    rng: np.random.Generator, photos: list[Array], images: Array, labels: Array, side: int
) -> tuple[Array, Array]:
    """An image (side, side, 3) uint8 and its mask (side, side) uint8, 0 = background, 1 + label = object.

    Args:
        rng: of this scene alone.
        photos: (H, W, 3) uint8; images: (N, 28, 28) uint8; labels: (N,).
    """
    canvas = _background(rng, photos[rng.integers(len(photos))], side)
    mask = np.zeros((side, side), np.uint8)
    for _ in range(rng.integers(1, 5)):
        which = int(rng.integers(len(images)))
        size = max(4, round(side * float(rng.uniform(18, 40)) / 64))
        top, left = (int(rng.integers(-(size // 4), side - size + size // 4 + 1)) for _ in range(2))
        ink = np.asarray(Image.fromarray(images[which]).resize((size, size), Image.Resampling.BILINEAR))
        colour = np.array(COLOURS[rng.integers(len(COLOURS))])
        painted = colour * (0.25 + 0.75 * ink[..., None] / 255) + rng.normal(0, 0.04, (size, size, 3))
        y, x = slice(max(top, 0), top + size), slice(max(left, 0), left + size)
        inside = (slice(max(-top, 0), side - top), slice(max(-left, 0), side - left))
        is_object = ink[inside] > INK
        canvas[y, x][is_object] = painted[inside][is_object]
        mask[y, x][is_object] = 1 + labels[which]
    canvas += rng.normal(0, 0.05, canvas.shape)
    return np.rint(255 * canvas.clip(0, 1)).astype(np.uint8), mask


def _background(rng: np.random.Generator, photo: Array, side: int) -> Array:
    """(side, side, 3) floats around [0, 1]: a window of one to three times the side, darkened, with slow noise."""
    height, width = photo.shape[:2]
    window = min(float(rng.uniform(side, 3 * side)), height, width)
    left, top = float(rng.uniform(0, width - window)), float(rng.uniform(0, height - window))
    box = (left, top, left + window, top + window)
    seen = Image.fromarray(photo).resize((side, side), Image.Resampling.BILINEAR, box=box)
    slow = Image.fromarray(rng.normal(0, 0.12, (4, 4)).astype(np.float32))
    noise = np.asarray(slow.resize((side, side), Image.Resampling.BILINEAR))[..., None]
    found: Array = np.asarray(seen, dtype=np.float64) / 255 * float(rng.uniform(0.5, 1)) + noise
    return found


def _side(photo: Array, is_train: bool) -> Array:
    at = round(LEFT * photo.shape[1])
    return np.ascontiguousarray(photo[:, :at] if is_train else photo[:, at:])


def _is_edge(masks: Array) -> Array:
    """(N, H, W) bool: a neighbour, left, right, above or below, is of another class."""
    found = np.zeros(masks.shape, bool)
    for axis in (1, 2):
        differs = np.diff(masks.astype(np.int16), axis=axis) != 0
        a, b = [slice(None)] * 3, [slice(None)] * 3
        a[axis], b[axis] = slice(None, -1), slice(1, None)
        found[tuple(a)] |= differs
        found[tuple(b)] |= differs
    return found
