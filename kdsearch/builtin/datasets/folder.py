"""Images in folders named after their classes: folder/cat/1.png, or folder/train/cat/1.png with val and test beside it.

They are turned as their EXIF says, and lie on white where they are transparent, as in the `predict.py` beside exported files.
`unlabeled` beside the class folders, or beside train, is no class: its images have no label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import torch
from pydantic import Field as Option
from torch import Tensor

from kdsearch.builtin.datasets.copies import across, copies, ends, groups
from kdsearch.builtin.datasets.images import ImageOptions, Part, image_source
from kdsearch.builtin.datasets.pixels import Pixels, Stored, fitted
from kdsearch.errors import DataError
from kdsearch.kinds import HIDDEN, Dataset, DataSource, Services
from kdsearch.kit import images
from kdsearch.kit.files import entries
from kdsearch.kit.images import GREY, Head, header, image_files, left_out

SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
UNLABELED = ("unlabeled", "unlabelled")


class FolderOptions(ImageOptions):
    path: str = Option(
        description="folder of class folders, or of train, val and test with class folders in each; "
        "images in `unlabeled` beside them have no label"
    )
    memory_mb: int = Option(
        512, ge=0, description="decode every image at the start up to this size, on demand beyond it (MiB decoded)"
    )


@dataclass(frozen=True)
class Decoded:
    """Images decoded when they are asked for. `content`: digest of names, sizes and file ends."""

    files: tuple[Path, ...]
    resize: int | None
    channels: int
    content: str

    def __len__(self) -> int:
        return len(self.files)

    def __call__(self, index: Sequence[int]) -> Tensor:
        if not len(index):
            side = self.resize or 1
            return torch.zeros(0, self.channels, side, side, dtype=torch.uint8)
        return stacked(
            [self.files[i] for i in index], [decode(self.files[i], self.channels, self.resize) for i in index]
        )


class OfFiles(Pixels, Protocol):
    """Pixels of a file each."""

    @property
    def files(self) -> tuple[Path, ...]: ...


class ImageFolder(Dataset[FolderOptions]):
    """One sample a file; its id is its path below the folder. Corrupt files are errors, never skipped."""

    origin: ClassVar[Mapping[str, str]] = {"source": "the user's folder", "licence": "the user's"}

    def __init__(self, options: FolderOptions) -> None:
        super().__init__(options)
        self.augments = options.augment != "none"

    def preflight(self, services: Services) -> None:
        _class_names(_split_folders(self._root(services))["train"])

    def _root(self, services: Services) -> Path:
        root = services.file(self.options.path)
        if not root.is_dir():
            raise DataError("not a folder", file=root, path="data.options.path", expected="a folder of class folders")
        return root

    def open(self, services: Services) -> DataSource:
        root = self._root(services)
        folders = _split_folders(root)
        classes = _class_names(folders["train"])
        found = {
            name: _images(folder, HIDDEN) if name == "unlabeled" else _files(folder, classes, name == "train")
            for name, folder in folders.items()
        }
        files = [file for each in found.values() for file, _ in each]
        with ThreadPoolExecutor(4) as pool:
            heads = dict(zip(files, pool.map(header, files), strict=True))
        channels = self.options.channels or (1 if all(head.mode in GREY for head in heads.values()) else 3)
        n_bytes = self._decoded_bytes(heads, channels)
        stored = n_bytes <= self.options.memory_mb << 20
        paths = {name: tuple(file for file, _ in each) for name, each in found.items()}
        seen = {name: ends(each) for name, each in paths.items()}
        equal = copies(paths, seen)
        parts = {}
        for name, each in found.items():
            pixels = Decoded(paths[name], self.options.resize, channels, seen[name].content)
            ids = tuple(file.relative_to(root).as_posix() for file in paths[name])
            parts[name] = Part(
                ids,
                Stored(every(pixels)) if stored else pixels,
                torch.tensor([label for _, label in each], dtype=torch.int64),
                folders[name],
                groups(ids, paths[name], equal),
            )
        held_out = across(paths, equal)
        facts = {
            "name": "image_folder",
            **self.origin,
            "decoded_bytes": n_bytes,
            "decoded": "at the start" if stored else "on demand",
            **({"copies": held_out} if held_out else {}),
            "notes": left_out(_places(folders, classes)),
        }
        return image_source(parts, classes, self.options, facts)

    def _decoded_bytes(self, heads: Mapping[Path, Head], channels: int) -> int:
        """Size of all images decoded. Raise DataError when their sizes differ and nothing makes them equal."""
        if self.options.resize is not None:
            return len(heads) * channels * self.options.resize**2
        check_sizes(heads)
        head = next(iter(heads.values()))
        return len(heads) * channels * head.width * head.height


def check_sizes(heads: Mapping[Path, Head]) -> None:
    """Raise DataError where images are plainly not of one size, naming a file and both sizes."""
    first, expected = next(iter(heads.items()))
    for file, head in heads.items():
        # a rotation noted in the file swaps the sides, so only their set is known yet
        if {head.width, head.height} != {expected.width, expected.height}:
            raise _mixed(first, (1, expected.height, expected.width), file, (1, head.height, head.width))


def stacked(files: Sequence[Path], images: Sequence[Tensor]) -> Tensor:
    """(B, C, H, W) of one image (C, H, W) a file. Raise DataError naming one of another size than the first."""
    for file, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            raise _mixed(files[0], images[0].shape, file, image.shape)
    return torch.stack(list(images))


def _mixed(first: Path, one: Sequence[int], file: Path, other: Sequence[int]) -> DataError:
    return DataError(
        f"is {other[2]}x{other[1]} pixels, {first.name} is {one[2]}x{one[1]}",
        file=file,
        expected="images of one size",
        fix="Set `resize` in data.options, such as `resize: 64`.",
    )


def decode(file: Path, channels: int, resize: int | None) -> Tensor:
    """(C, H, W) uint8, scaled and cropped. Raise DataError naming a corrupt file."""
    return fitted(images.decode(file, channels)[None], resize, None)[0]


def every(pixels: OfFiles) -> Tensor:
    """All of them, in order; threads decode (Pillow and torch leave the interpreter's lock). Raise DataError as `stacked`."""
    step = 64
    with ThreadPoolExecutor(4) as pool:
        starts = range(0, len(pixels), step)
        chunks = list(pool.map(lambda start: pixels(range(start, min(start + step, len(pixels)))), starts))
    for i, chunk in enumerate(chunks):
        if chunk.shape[1:] != chunks[0].shape[1:]:
            raise _mixed(pixels.files[0], chunks[0].shape[1:], pixels.files[i * step], chunk.shape[1:])
    return torch.cat(chunks) if chunks else pixels(())


def _split_folders(root: Path) -> dict[str, Path]:
    """Split -> its folder; `unlabeled` where there are images without labels, beside the classes or beside train."""
    named = split_folders(root, "class folders") or {"train": root}
    unlabeled = [
        place
        for folder in dict.fromkeys((root, named["train"]))
        for place in _subfolders(folder)
        if place.name.lower() in UNLABELED
    ]
    if len(unlabeled) > 1:
        both = " and ".join(place.relative_to(root).as_posix() for place in unlabeled[:2])
        raise DataError(f"has both {both}", file=root, expected="one folder of images without labels")
    return {**named, **({"unlabeled": unlabeled[0]} if unlabeled else {})}


def split_folders(root: Path, alone: str) -> dict[str, Path]:
    """Split -> the folder that is named after it, in upper or lower case; {} where there is none, `alone` being what is there then.

    Raise DataError for two of a split, or none of train.
    """
    named: dict[str, Path] = {}
    folders = _subfolders(root)
    for split, names in SPLITS.items():
        # a class may be called Train: its images are in no folders
        there = [each for each in folders if each.name in names or (each.name.lower() in names and _subfolders(each))]
        if len(there) > 1:
            both = " and ".join(each.name for each in there[:2])
            raise DataError(f"has both {both}", file=root, expected=f"one folder for {split}")
        if there:
            named[split] = there[0]
    if named and "train" not in named:
        raise DataError(
            f"has {', '.join(folder.name for folder in named.values())} but no train",
            file=root,
            expected=f"train beside them, or {alone} alone",
        )
    return named


def _subfolders(folder: Path) -> list[Path]:
    return [each for each in entries(folder) if each.is_dir() and not each.name.startswith(".")]


def _class_names(train: Path) -> tuple[str, ...]:
    names = tuple(folder.name for folder in _subfolders(train) if folder.name.lower() not in UNLABELED)
    if not names:
        raise DataError("no class folders", file=train, expected="one folder a class with its images in it")
    if names == ("images", "masks"):
        fix = "Images with masks, a class for each pixel, are the data set `mask_folder`."
        raise DataError("holds images and masks", file=train, expected="one folder a class", fix=fix)
    return names


def _files(folder: Path, classes: Sequence[str], is_train: bool) -> list[tuple[Path, int]]:
    """(file, label) sorted by path. Raise DataError for a class that train lacks, or an empty folder."""
    found: list[tuple[Path, int]] = []
    for each in _subfolders(folder):
        if each.name in classes:
            found += _images(each, classes.index(each.name))
        elif not (is_train and each.name.lower() in UNLABELED):
            raise DataError(
                f"class '{each.name}' is not among the {len(classes)} classes of train",
                file=each,
                expected="its name there",
            )
    return found


def _places(folders: Mapping[str, Path], classes: Sequence[str]) -> list[Path]:
    """The folders that images are read from."""
    made = []
    for name, folder in folders.items():
        made += [folder] if name == "unlabeled" else [each for each in _subfolders(folder) if each.name in classes]
    return made


def _images(folder: Path, label: int) -> list[tuple[Path, int]]:
    """The images of a folder, however deep, with one label. Raise DataError where there is none."""
    return [(file, label) for file in image_files(folder)]
