"""Image classification in memory or decoded on demand: one split class, one set of options for every image data set."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from pydantic import Field as Option
from torch import Tensor

from kdsearch.builtin.datasets.augment import Augmentation, augmented, id_hash
from kdsearch.builtin.datasets.pixels import CHUNK, Pixels, Stored, check_memory, chunks, fitted
from kdsearch.errors import DataError
from kdsearch.kinds import HIDDEN, IMAGENET, Batch, Field, Normalization, Options, Split, split_of
from kdsearch.limits import RESIZE

LOOKED_AT = 2048  # decoding is what costs; so many images of 1,000 pixels give the mean to 1e-3
COPIED = 1 << 26  # bytes of stored images at once
WHOLE = 255.0  # the greatest pixel of eight bits


class ImageOptions(Options):
    """Options that every image data set has."""

    resize: int | None = Option(
        None,
        ge=4,
        le=RESIZE,
        description="side in pixels: the shorter side is scaled, the longer cropped to the middle",
    )
    channels: Literal[1, 3] | None = Option(None, description="1 = grey, 3 = RGB, null = as the files are")
    augment: Augmentation = Option(
        "none",
        description="training images: shift = moved by up to 1/16 of the side; crop = by up to 1/8; "
        "crop_flip = crop and mirrored half the time",
    )


@dataclass(frozen=True)
class Standard:
    """Standardisation per channel: (x / scale - mean) / std, of pixels x from `low` to `high`."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float
    counted: int  # images that mean and std were computed from; 0 = they were given
    low: float
    high: float

    def given(self, wanted: Normalization) -> Standard:
        """With mean and std of x / scale as they are wanted, not as they were measured."""
        own = wanted.of(len(self.mean))
        return replace(self, mean=own.mean, std=own.std, counted=0)

    def __call__(self, images: Tensor) -> Tensor:
        """(B, C, H, W) as stored -> float32."""
        std = torch.tensor(self.std, dtype=torch.float64)
        factor = (1.0 / (self.scale * std)).float().view(-1, 1, 1)
        offset = (torch.tensor(self.mean, dtype=torch.float64) / std).float().view(-1, 1, 1)
        return images.to(torch.float32).mul_(factor).sub_(offset)


@dataclass(frozen=True)
class Part:
    """One split before it is opened: ids, images, labels (N,) int64, the file that an error should name, and groups of copies."""

    ids: tuple[str, ...]
    pixels: Pixels
    labels: Tensor
    file: object = None
    groups: tuple[str, ...] = ()


class ImageSplit:
    """Samples of `image` (C, H, W) float32, standardised, and `label` int64. `labels` (N,) are there without loading."""

    def __init__(self, part: Part, standard: Standard, augmentation: Augmentation) -> None:
        self.labels, self.groups = part.labels, part.groups
        self._ids, self._pixels = part.ids, part.pixels
        self._standard, self._augmentation = standard, augmentation

    @property
    def ids(self) -> Sequence[str]:
        return self._ids

    def load(self, index: Sequence[int], augment: bool = False, seed: int = 0) -> Batch:
        ids = tuple(self._ids[i] for i in index)
        images = self._pixels(index)
        if augment and self._augmentation != "none" and ids:
            images = augmented(images, ids, seed, self._augmentation)
        labels = self.labels[torch.as_tensor(index, dtype=torch.long)]
        return Batch(ids, {"image": self._standard(images), "label": labels})


class ImageSource:
    """An opened image data set: `fields` are `image` and `label`; `facts` say how pixels were prepared."""

    def __init__(
        self,
        fields: tuple[Field, ...],
        facts: Mapping[str, Any],
        splits: Mapping[str, Split],
        reopened: Callable[[Collection[str] | None, Normalization | None], ImageSource],
        wanted: Normalization | None = None,
    ) -> None:
        self._fields, self._facts, self._splits, self._reopened, self._wanted = fields, facts, splits, reopened, wanted

    @property
    def fields(self) -> tuple[Field, ...]:
        return self._fields

    @property
    def facts(self) -> Mapping[str, Any]:
        return self._facts

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._splits)

    def split(self, name: str) -> Split:
        return split_of(self._splits, name)

    def measured_on(self, ids: Collection[str], labeled: Collection[str]) -> ImageSource:
        """The same images, standardised by what these samples of `train` measure, unless mean and std were given."""
        return self._reopened(ids, self._wanted)

    def normalized(self, wanted: Normalization) -> ImageSource:
        """The same images by this mean and std, of pixels in 0..1 (files of other floats: of those)."""
        return self._reopened(None, wanted)


def image_source(
    parts: Mapping[str, Part], classes: Sequence[str], options: ImageOptions, facts: Mapping[str, Any]
) -> ImageSource:
    """Check labels, resize what is in memory, measure mean and std on `train` without augmentation, and open.

    Raises:
        DataError: an empty split, a label outside 0..K-1, images of unequal size or channels.
    """
    prepared: dict[str, Part] = {}
    for name, part in parts.items():
        if not part.ids:
            raise DataError(f"split '{name}' has no samples", file=part.file, expected="at least one image")
        check_labels(part.labels, len(classes), part.file, name)
        pixels = part.pixels
        if isinstance(pixels, Stored):
            side, each = options.resize, pixels.images.shape[1:]
            per_image = options.channels or each[0], side or each[1], side or each[2]
            check_memory(len(part.ids) * math.prod(per_image) * pixels.images.element_size(), part.file)
            pixels = Stored(fitted(pixels.images, options.resize, options.channels))
        prepared[name] = replace(part, pixels=pixels)
    shapes = {name: tuple(part.pixels([0]).shape[1:]) for name, part in prepared.items()}
    for name, shape in shapes.items():
        if shape != shapes["train"]:
            raise DataError(
                f"split '{name}' has images of {_shape(shape)}, 'train' of {_shape(shapes['train'])}",
                file=prepared[name].file,
                expected="one size and number of channels in every split",
                fix="Set `resize` and `channels` in data.options.",
            )
    return _opened(prepared, classes, options, {**facts, "content": content(prepared)}, None, None)


def _opened(
    parts: Mapping[str, Part],
    classes: Sequence[str],
    options: ImageOptions,
    facts: Mapping[str, Any],
    ids: Collection[str] | None,
    wanted: Normalization | None,
) -> ImageSource:
    """Mean and std as `wanted`, else from the samples `ids` of `train`; None = all of them."""
    train = parts["train"]
    standard = measured(train, ids)
    if wanted is not None:
        check_wanted(wanted, standard, train.file)
        standard = standard.given(wanted)
    told = {
        **facts,
        "classes": list(classes),
        "samples": {name: len(part.ids) for name, part in parts.items()},
        "preprocessing": preprocessing(standard, train.pixels([0]).shape[1:], options, facts),
    }
    c, h, w = train.pixels([0]).shape[1:]
    fields = (Field("image", "image", (c, h, w)), Field("label", "label", (), "int64", "target"))
    splits = {name: ImageSplit(part, standard, options.augment) for name, part in parts.items()}
    return ImageSource(
        fields, told, splits, lambda some, how: _opened(parts, classes, options, facts, some, how), wanted
    )


def preprocessing(
    standard: Standard, shape: Sequence[int], options: ImageOptions, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """What a network of this study is fed, for whoever feeds it images of his own."""
    c, h, w = shape
    side = options.resize
    return {
        "size": [h, w],
        "channels": c,
        "color": {1: "grey", 3: "RGB"}.get(c),  # nobody knows what others are
        "range": [standard.low, standard.high],
        "scale": standard.scale,
        "mean": list(standard.mean),
        "std": list(standard.std),
        "formula": f"(x / {standard.scale:g} - mean) / std, a channel each; x in {standard.low:g}..{standard.high:g}"
        + (f" ({facts['pixels']})" if "pixels" in facts else ""),
        "normalize": "measured" if standard.counted else "given",
        "measured_on": standard.counted,
        "resize": f"the shorter side to {side}, the middle {side}x{side} cut out" if side else "none",
        "resize_filter": "bilinear, antialiased" if side else None,
    }


def check_wanted(wanted: Normalization, standard: Standard, file: object) -> None:
    """Raise DataError where mean and std are plainly not of these pixels."""
    if standard.scale == WHOLE and max(abs(each) for each in wanted.mean) > 1:
        raise DataError(
            f"mean {max(wanted.mean):g}",
            path="data.normalize",
            expected="mean and std of pixels in 0..1",
            fix=f"Divide both by {WHOLE:g}.",
        )
    if wanted == IMAGENET and standard.scale == 1 and (standard.low < 0 or standard.high > 1):
        raise DataError(
            f"images of {standard.low:g}..{standard.high:g}; ImageNet's mean and std are of pixels in 0..1",
            file=file,
            path="data.normalize",
            expected="none, or {mean: ..., std: ...} of these values",
        )


def _shape(shape: Sequence[int]) -> str:
    return "x".join(str(size) for size in shape)


def check_labels(labels: Tensor, n_classes: int, file: object, split: str) -> None:
    """Raise DataError naming the first label outside 0..n_classes-1 that is not HIDDEN, and its row."""
    wrong = ((labels < 0) | (labels >= n_classes)) & (labels != HIDDEN)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise DataError(
            f"label {int(labels[row])} of sample {row} in split '{split}' ({int(wrong.sum())} like it)",
            file=file,
            expected=f"0..{n_classes - 1} for {n_classes} classes, or {HIDDEN} for an unknown label",
        )


def measured(part: Part, ids: Collection[str] | None = None) -> Standard:
    """Mean and std per channel over the pixels of a split, exact for uint8. `ids`: of the samples that are looked at; None = all.

    Of images that are decoded on demand at most LOOKED_AT, chosen by id.
    """
    lazy, wanted = not isinstance(part.pixels, Stored), None if ids is None else set(ids)
    rows = [i for i, id in enumerate(part.ids) if wanted is None or id in wanted]
    if lazy and len(rows) > LOOKED_AT:
        rows = sorted(sorted(rows, key=lambda i: id_hash(part.ids[i]))[:LOOKED_AT])
    first = part.pixels(rows[:1])
    whole, n_channels = first.dtype == torch.uint8, first.shape[1]
    counts = torch.zeros(n_channels, 256, dtype=torch.int64)
    sums = torch.zeros(3, n_channels, dtype=torch.float64)  # n, sum, sum of squares
    low, high = (0.0, WHOLE) if whole else (math.inf, -math.inf)
    each_bytes = math.prod(first.shape[1:]) * first.element_size()
    step = 64 if lazy else max(1, min(CHUNK, COPIED // each_bytes))
    for start in range(0, len(rows), step):
        images = part.pixels(rows[start : start + step])
        for c in range(n_channels):
            values = images[:, c].reshape(-1)
            if whole:
                counts[c] += torch.bincount(values, minlength=256)
            else:
                wide = values.double()
                low, high = min(low, float(wide.min())), max(high, float(wide.max()))
                sums[:, c] += torch.stack([torch.tensor(float(len(wide))), wide.sum(), wide.square().sum()])
    if whole:
        levels = torch.arange(256, dtype=torch.float64)
        sums = torch.stack([counts.sum(1).double(), counts.double() @ levels, counts.double() @ levels.square()])
    # floats too may be 0..255, which nothing but their size says
    scale = WHOLE if whole or (low >= 0 and 16 < high <= WHOLE) else 1.0
    mean = sums[1] / sums[0]
    std = (sums[2] / sums[0] - mean.square()).clamp_min(0).sqrt()
    std = torch.where(std > 1e-6 * scale, std, torch.full_like(std, scale))  # a constant channel
    by_scale = tuple((mean / scale).tolist()), tuple((std / scale).tolist())
    low, high = (0.0, scale) if low >= 0 and high <= scale else (low, high)
    return Standard(*by_scale, scale, len(rows), low, high)


def content(parts: Mapping[str, Part]) -> str:
    """sha256 over ids, labels and pixels (on demand: what the source says of its files) of every split."""
    digest = hashlib.sha256()
    for name, part in parts.items():
        digest.update(f"{name}\0{len(part.ids)}\0{_hex(part.ids)}".encode())
        digest.update(part.labels.numpy().tobytes())
        if isinstance(part.pixels, Stored):
            images = part.pixels.images
            digest.update(f"{images.dtype}{tuple(images.shape)}".encode())
            for chunk in chunks(images):
                digest.update(chunk.contiguous().numpy().data)
        else:
            digest.update(str(getattr(part.pixels, "content", "")).encode())
    return digest.hexdigest()


def _hex(ids: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(ids).encode()).hexdigest()
