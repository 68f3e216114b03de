"""Data set `mask_folder`: images/a.jpg with masks/a.png beside it, or train/images and train/masks with val and test beside them.

A mask is a PNG of palette or grey whose pixels are class indices. `unlabeled/` holds images without masks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from pydantic import Field as Option
from torch import Tensor

from kdsearch.builtin.datasets.copies import across, copies, ends, groups
from kdsearch.builtin.datasets.folder import (
    UNLABELED,
    Decoded,
    FolderOptions,
    check_sizes,
    every,
    split_folders,
    stacked,
)
from kdsearch.builtin.datasets.images import Part
from kdsearch.builtin.datasets.pixels import Pixels, Stored
from kdsearch.builtin.vision.masks import CLASSES, VOID, MaskPart, main_classes, mask_source, without_labels
from kdsearch.errors import DataError, nearest
from kdsearch.kinds import Dataset, DataSource, Services
from kdsearch.kit.files import below, content, entries, opened
from kdsearch.kit.images import ENDINGS, GREY, Head, header, left_out, no_images, unreadable

INDEXED = ("1", "L", "P")  # modes whose pixels are class indices
NAMES_BYTES = 1 << 20
ORIENTATION = 0x0112  # of EXIF
PNG = b"\x89PNG\r\n\x1a\n"  # the size, the bits a channel (byte 24) and the kind of colour (byte 25) follow
BINARY = f"In masks of 0 and {VOID}, {VOID} says that nobody knows the class: write 1 in its place."


class MaskFolderOptions(FolderOptions):
    path: str = Option(description="folder of `images` and `masks`, or of train, val and test with both in each")
    classes: str = Option("classes.txt", description="file in that folder with a class's name a line, class 0 first")
    ignore_index: int | None = Option(
        VOID, ge=0, le=255, description="value of the masks' pixels whose class is not known; null = none"
    )


@dataclass(frozen=True)
class Masks:
    """Masks (B, 1, H, W) uint8 decoded when they are asked for, VOID where the class is not known."""

    files: tuple[Path, ...]
    images: tuple[Path, ...]
    n_classes: int
    ignore: int | None
    resize: int | None
    content: str

    def __len__(self) -> int:
        return len(self.files)

    def __call__(self, index: Sequence[int]) -> Tensor:
        """Raise DataError for a mask of another size than its image or the first one, or a value that is no class."""
        if not len(index):
            return torch.zeros(0, 1, self.resize or 1, self.resize or 1, dtype=torch.uint8)
        found = [self._one(read_mask(self.files[i], upright_size(self.images[i])), self.files[i]) for i in index]
        return stacked([self.files[i] for i in index], found)

    def _one(self, mask: Tensor, file: Path) -> Tensor:
        unknown = torch.zeros_like(mask).bool() if self.ignore is None else mask == self.ignore
        wrong = (mask >= self.n_classes) & ~unknown
        if bool(wrong.any()):
            value = int(mask[wrong][0])
            raise DataError(
                f"value {value} at {int(wrong.sum()):,} of {mask.numel():,} pixels",
                file=file,
                expected=f"0..{self.n_classes - 1} for {self.n_classes} classes"
                + ("" if self.ignore is None else f", or {self.ignore} where the class is not known"),
                fix="Name every class in the file of classes, or set `ignore_index` in data.options.",
            )
        return sized(torch.where(unknown, VOID, mask), self.resize)


@dataclass(frozen=True)
class Unknown:
    """Masks of images that have none."""

    n: int
    size: tuple[int, int]
    content: str = "no masks"

    def __len__(self) -> int:
        return self.n

    def __call__(self, index: Sequence[int]) -> Tensor:
        return torch.full((len(index), 1, *self.size), VOID, dtype=torch.uint8)


class MaskFolder(Dataset[MaskFolderOptions]):
    """One sample an image; its id is its path below the folder. Corrupt files are errors, never skipped."""

    task = "segmentation"
    origin: ClassVar[Mapping[str, str]] = {"source": "the user's folder", "licence": "the user's"}

    def __init__(self, options: MaskFolderOptions) -> None:
        super().__init__(options)
        self.augments = options.augment != "none"

    def preflight(self, services: Services) -> None:
        root = self._root(services)
        for folder in _splits(root).values():
            _pairs(folder)
        self._names(root)

    def open(self, services: Services) -> DataSource:
        root, o = self._root(services), self.options
        folders, unlabeled = _splits(root), _unlabeled(root)
        pairs = {name: _pairs(folder) for name, folder in folders.items()}
        alone = tuple(file for folder in unlabeled for file in _files(folder, ENDINGS))
        images = {name: tuple(image for image, _ in each) for name, each in pairs.items()}
        images |= {"unlabeled": alone} if alone else {}
        files = [file for each in images.values() for file in each]
        with ThreadPoolExecutor(4) as pool:
            heads = dict(zip(files, pool.map(header, files), strict=True))
        if o.resize is None:
            check_sizes(heads)
        channels = o.channels or (1 if all(head.mode in GREY for head in heads.values()) else 3)
        names = self._names(root)
        n_classes = len(names) if names else 1 + _largest(pairs, o.ignore_index)
        is_stored = _decoded_bytes(heads, channels, o.resize) <= o.memory_mb << 20
        ends_of = {name: ends(paths) for name, paths in images.items()}
        equal = copies(images, ends_of)
        parts: dict[str, MaskPart] = {}
        for name, paths in images.items():
            decoded = Decoded(paths, o.resize, channels, ends_of[name].content)
            pixels: Pixels = Stored(every(decoded)) if is_stored else decoded
            if name == "unlabeled":
                size = tuple(pixels([0]).shape[-2:])
                masks: Pixels = Unknown(len(paths), (size[0], size[1]))
            else:
                drawn = tuple(mask for _, mask in pairs[name])
                drawings = Masks(drawn, paths, n_classes, o.ignore_index, o.resize, ends(drawn).content)
                masks = Stored(every(drawings)) if is_stored else drawings
            ids = tuple(file.relative_to(root).as_posix() for file in paths)
            labels = torch.zeros(0, dtype=torch.int64)
            part = Part(ids, pixels, labels, paths[0].parent, groups(ids, paths, equal))
            known = without_labels(part) if name == "unlabeled" else replace(part, labels=main_classes(masks))
            parts[name] = MaskPart(known, masks)
        seen = parts["train"].images.labels
        if not bool((seen > 0).any()):  # a main class is 0 where there is no other
            held = f"class 0 ({names[0] if names else 0}) alone" if bool((seen == 0).any()) else "no class"
            fix = BINARY if o.ignore_index == VOID else ""
            raise DataError(
                f"all {len(seen):,} training masks hold {held}",
                file=pairs["train"][0][1].parent,
                expected="pixels of two classes or more",
                fix=fix,
            )
        told: dict[str, object] = {
            "name": "mask_folder",
            **self.origin,
            "decoded": "at the start" if is_stored else "on demand",
            "notes": left_out([*(folder / "images" for folder in folders.values()), *unlabeled]),
        }
        if held_out := across(images, equal):
            told["copies"] = held_out
        return mask_source(parts, names or [str(k) for k in range(n_classes)], o, told)

    def _root(self, services: Services) -> Path:
        root = services.file(self.options.path)
        if not root.is_dir():
            raise DataError(
                "not a folder", file=root, path="data.options.path", expected="a folder of images and masks"
            )
        return root

    def _names(self, root: Path) -> list[str]:
        """Of the classes; none where there is no file of them under its usual name."""
        file = root / self.options.classes
        if self.options.classes == "classes.txt" and not file.exists():
            return []
        try:
            text = content(file, "a class's name a line", most=NAMES_BYTES).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"not UTF-8 ({error.reason})", file=file, expected="a class's name a line") from None
        names = [line.strip() for line in text.splitlines() if line.strip()]
        if not 2 <= len(names) <= CLASSES:
            raise DataError(f"{len(names)} classes", file=file, expected=f"2 to {CLASSES} names, one a line")
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise DataError(f"'{twice}' is there twice", file=file, expected="each name once")
        return names


def upright_size(file: Path) -> tuple[int, int]:
    """(H, W) of an image as its EXIF turns it, not decoded."""
    with opened(file, "an image") as stream, Image.open(stream) as image:
        is_turned = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
        return (image.width, image.height) if is_turned else (image.height, image.width)


def read_mask(file: Path, size: Sequence[int] | None = None) -> Tensor:
    """(1, H, W) uint8 of class indices. Raise DataError for another size, colour, or what is no image."""
    head = header(file)
    if head.mode not in INDEXED:
        raise DataError(
            f"pixel mode '{head.mode}'",
            file=file,
            expected="a mask of palette or grey, whose pixels are class indices",
            fix="Write colours as a palette PNG: index k for class k.",
        )
    try:
        with opened(file, "a mask") as stream:
            begin = stream.read(len(PNG) + 18)
            stream.seek(0)
            with Image.open(stream) as image:
                pixels = np.array(image, dtype=np.uint8) // grey_step(begin)
    except DataError:
        raise
    except Exception as error:  # a damaged file fails anywhere in its reader
        raise unreadable(file, error) from error
    if size is not None and pixels.shape != tuple(size):
        (h, w), (rows, columns) = size, pixels.shape
        raise DataError(f"is {columns}x{rows} pixels, its image is {w}x{h}", file=file, expected="one size")
    return torch.from_numpy(pixels)[None]


def grey_step(begin: bytes) -> int:
    """What a mask's values are multiples of, by the first 26 bytes of its file: Pillow stretches grey of 2 or 4 bits to 0..255."""
    bits, colour = begin[24:25], begin[25:26]
    is_grey = begin.startswith(PNG) and colour == b"\0"
    return {b"\2": 85, b"\4": 17}.get(bits, 1) if is_grey else 1


def sized(mask: Tensor, resize: int | None) -> Tensor:
    """(1, H, W) as `fitted` does to its image, by nearest pixels."""
    if resize is None or tuple(mask.shape[-2:]) == (resize, resize):
        return mask
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as V

    scaled: Tensor = V.resize(mask, [resize], interpolation=InterpolationMode.NEAREST_EXACT)
    return torch.as_tensor(V.center_crop(scaled, [resize]))


def _splits(root: Path) -> dict[str, Path]:
    """Split -> its folder of `images` and `masks`."""
    return split_folders(root, "images and masks") or {"train": root}


def _pairs(folder: Path) -> list[tuple[Path, Path]]:
    """(image, mask) sorted by path. Raise DataError for one without the other, or none."""
    for name in ("images", "masks"):
        if not (folder / name).is_dir():
            raise DataError(f"no folder '{name}'", file=folder, expected="folders `images` and `masks`")
    images = _by_stem(folder / "images", ENDINGS)
    masks = _by_stem(folder / "masks", (".png",))
    if not images:
        raise no_images(folder / "images")
    for here, there, what in ((images, masks, "mask"), (masks, images, "image")):
        lone = [stem for stem in here if stem not in there]
        if lone:
            raise DataError(
                f"has no {what} ({len(lone)} like it)",
                file=here[lone[0]],
                nearest=nearest(lone[0], there),
                expected=f"a file of the same name in {'masks' if what == 'mask' else 'images'}",
                fix="Move images without a mask to `unlabeled`." if what == "mask" else "",
            )
    return [(images[stem], masks[stem]) for stem in images]


def _by_stem(folder: Path, endings: Sequence[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in _files(folder, endings):
        stem = file.relative_to(folder).with_suffix("").as_posix()
        if stem in found:
            raise DataError(f"'{stem}' is there twice", file=file, expected="one file of a name")
        found[stem] = file
    return found


def _files(folder: Path, endings: Sequence[str]) -> Iterator[Path]:
    found = (file for file in below(folder) if file.suffix.lower() in endings and not file.name.startswith("."))
    yield from sorted(found, key=str)


def _unlabeled(root: Path) -> list[Path]:
    """The folder of images without masks, where there is one."""
    return [each for each in entries(root) if each.is_dir() and each.name.lower() in UNLABELED][:1]


def _largest(pairs: Mapping[str, Sequence[tuple[Path, Path]]], ignore: int | None) -> int:
    """The largest class of all masks. Raise DataError where there is but one class."""
    files = [mask for each in pairs.values() for _, mask in each]

    def largest(file: Path) -> int:
        mask = read_mask(file)
        known = mask if ignore is None else mask[mask != ignore]
        return int(known.max()) if known.numel() else 0

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(largest, files))
    most = max(found)
    if not 1 <= most < CLASSES:
        file = files[found.index(most)]
        raise DataError(
            f"its largest class is {most}",
            file=file,
            expected=f"classes from 0 to at most {CLASSES - 1}, two or more",
            fix=BINARY if most == 0 and ignore == VOID else "",
        )
    return most


def _decoded_bytes(heads: Mapping[Path, Head], channels: int, resize: int | None) -> int:
    sizes = (resize**2 if resize else head.width * head.height for head in heads.values())
    return sum((channels + 1) * each for each in sizes)
