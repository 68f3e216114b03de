"""Arrays of the user's own: one .npz file with images, labels, and optionally its own splits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field as Option
from pydantic import field_validator

from kdsearch.builtin.datasets.images import ImageOptions, Part, check_labels, image_source
from kdsearch.builtin.datasets.pixels import FEWER, Stored, as_images
from kdsearch.errors import DataError, nearest
from kdsearch.kinds import HIDDEN, Dataset, DataSource, Services
from kdsearch.kit.arrays import Array, read_arrays
from kdsearch.limits import CLASSES

SPLITS = ("train", "val", "test")
SHOWN = 12  # names of arrays in a message
GREATEST = 1e18  # of a float pixel


class NpzOptions(ImageOptions):
    path: str = Option(description="the .npz file")
    image: str = Option("image", description="array of images; those of split S are `S_image` (train_, val_, test_)")
    label: str = Option("label", description="array of class indices, named alike")
    classes: Annotated[int, Option(ge=2, le=CLASSES)] | Annotated[list[str], Option(min_length=2)] | None = Option(
        None, description="number or names of the classes; null = the greatest label + 1"
    )
    layout: Literal["auto", "hw", "hwc", "chw"] = Option(
        "auto", description="axes of one image; auto: (H, W), or four axes with 1 or 3 channels last or first"
    )

    @field_validator("classes")
    @classmethod
    def _each_once(cls, value: int | list[str] | None) -> int | list[str] | None:
        if isinstance(value, list) and len(set(value)) < len(value):
            raise ValueError("names that differ")
        return value


class Npz(Dataset[NpzOptions]):
    """Images uint8 in 0..255, or floats in any range; labels of an unknown class are -100. Nothing is unpickled."""

    origin: ClassVar[Mapping[str, str]] = {"source": "the user's file", "licence": "the user's"}

    def __init__(self, options: NpzOptions) -> None:
        super().__init__(options)
        self.augments = options.augment != "none"

    def preflight(self, services: Services) -> None:
        services.file(self.options.path)

    def open(self, services: Services) -> DataSource:
        file = services.file(self.options.path)
        arrays = read_arrays(file, FEWER)
        named = self._names(arrays, file)
        labels = {split: _labels(arrays[label], label, file) for split, (_, label) in named.items()}
        classes = self._classes(labels, file)
        parts = {}
        for split, (image, label) in named.items():
            images = self._images(arrays[image], image, file)
            if len(images) != len(labels[split]):
                raise DataError(
                    f"array '{label}' has {len(labels[split])} rows, '{image}' has {len(images)}",
                    file=file,
                    expected="a label for each image",
                )
            known = torch.from_numpy(labels[split])
            check_labels(known, len(classes), f"{file}, array '{label}'", split)
            first = named["train"][0]
            if (arrays[image].dtype == np.uint8) != (arrays[first].dtype == np.uint8):
                raise DataError(
                    f"array '{image}' is {arrays[image].dtype}, '{first}' is {arrays[first].dtype}",
                    file=file,
                    expected="uint8 in 0..255 in every split, or floats in one range",
                )
            ids = tuple(f"{split}-{i:06d}" for i in range(len(images)))
            parts[split] = Part(ids, Stored(as_images(images)), known, file)
        return image_source(parts, classes, self.options, {"name": "npz", **self.origin})

    def _names(self, arrays: Mapping[str, Array], file: Path) -> dict[str, tuple[str, str]]:
        image, label = self.options.image, self.options.label
        named = {
            split: (f"{split}_{image}", f"{split}_{label}")
            for split in SPLITS
            if f"{split}_{image}" in arrays or f"{split}_{label}" in arrays
        }
        if "train" not in named:
            named = {"train": (image, label), **named}
        for pair in named.values():
            for name in pair:
                if name not in arrays:
                    raise self._none(name, arrays, file)
        return named

    def _none(self, name: str, arrays: Mapping[str, Array], file: Path) -> DataError:
        image, label = self.options.image, self.options.label
        there = [each for each in arrays if not each.startswith(tuple(f"{split}_" for split in SPLITS))]
        there += [each.partition("_")[2] for each in arrays if each not in there]
        meant = {
            option: nearest(asked, there)
            for option, asked in (("image", image), ("label", label))
            if asked not in there
        }
        say = ", ".join(f"{option}: {array or 'ITS ARRAY'}" for option, array in meant.items())
        typed = ",".join(f"{option}={array or 'ARRAY'}" for option, array in meant.items())
        return DataError(
            f"no array '{name}'; the file has {', '.join([*arrays][:SHOWN]) or 'none'}{', ...' * (len(arrays) > SHOWN)}",
            file=file,
            expected=f"'{image}' and '{label}', or those of each split S, 'S_{image}' and 'S_{label}'",
            fix=f"Set data.options: {{{say}}}, or with `kdsearch compress` --data {file.name},{typed}." if say else "",
        )

    def _classes(self, labels: Mapping[str, np.ndarray[Any, np.dtype[np.int64]]], file: Path) -> list[str]:
        asked = self.options.classes
        if isinstance(asked, list):
            return asked
        if asked is not None:
            return [str(i) for i in range(asked)]
        every = np.concatenate(list(labels.values()))
        greatest, n_known = int(every.max(initial=HIDDEN)), int((every != HIDDEN).sum())
        if len(every) and not n_known:
            raise DataError(f"every label is {HIDDEN} (unknown)", file=file, expected="known labels for some images")
        if greatest >= max(n_known, 2):  # so many classes cannot all have a sample: a stray id makes a huge network
            raise DataError(
                f"the greatest label is {greatest:,}, but only {n_known:,} labels are known",
                file=file,
                expected="class indices from 0 on",
                fix="Set `classes` in data.options if there are that many.",
            )
        return [str(i) for i in range(greatest + 1)]

    def _images(self, array: Array, name: str, file: Path) -> Array:
        """(N, H, W) or (N, H, W, C), uint8 or finite float32."""
        is_float = np.issubdtype(array.dtype, np.floating)
        if array.dtype != np.uint8 and not is_float:
            raise DataError(
                f"array '{name}' is {array.dtype}", file=file, expected="uint8, or float with finite values"
            )
        layout = self._layout(array, name, file)
        if layout == "chw":
            array = array.transpose(0, 2, 3, 1)
        if is_float:
            with np.errstate(over="ignore"):  # what is beyond float32 is infinite, and said below
                array = array.astype(np.float32)
            if not np.isfinite(array).all():
                at = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
                raise DataError(
                    f"array '{name}' holds {array[at]} in image {at[0]} (row {at[1]}, column {at[2]})",
                    file=file,
                    expected="finite pixels",
                )
            if float(np.abs(array).max(initial=0)) > GREATEST:  # its square is no float32: standardising would overflow
                raise DataError(f"array '{name}' holds pixels beyond {GREATEST:g}", file=file, expected="smaller ones")
        return array

    def _layout(self, array: Array, name: str, file: Path) -> str:
        shape = "x".join(str(n) for n in array.shape) or "a single number"
        asked = self.options.layout
        if array.ndim not in (3, 4) or 0 in array.shape[1:] or (asked == "hw") != (array.ndim == 3 and asked != "auto"):
            wanted = {"hw": "(N, H, W)", "hwc": "(N, H, W, C)", "chw": "(N, C, H, W)"}
            raise DataError(
                f"array '{name}' has shape {shape}", file=file, expected=wanted.get(asked, "(N, H, W) or (N, H, W, C)")
            )
        if asked != "auto" or array.ndim == 3:
            return "hw" if array.ndim == 3 else asked
        last, first = array.shape[3] in (1, 3), array.shape[1] in (1, 3)
        if last == first:
            raise DataError(
                f"array '{name}' has shape {shape}: its channels are not evident",
                file=file,
                path="data.options.layout",
                expected="hwc or chw",
            )
        return "hwc" if last else "chw"


def _labels(array: Array, name: str, file: Path) -> np.ndarray[Any, np.dtype[np.int64]]:
    flat = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if flat.ndim != 1 or not np.issubdtype(flat.dtype, np.integer):
        raise DataError(
            f"array '{name}' is {array.dtype} of shape {tuple(array.shape)}",
            file=file,
            expected="integers of shape (N,)",
        )
    if len(flat) and int(flat.max()) > 1 << 31:
        raise DataError(f"array '{name}' holds {int(flat.max())}", file=file, expected="a class index")
    labels = flat.astype(np.int64)
    wrong = np.flatnonzero((labels < 0) & (labels != HIDDEN))
    if len(wrong):
        raise DataError(
            f"array '{name}' holds {labels[wrong[0]]} at {wrong[0]}",
            file=file,
            expected=f"0 or more, or {HIDDEN} (unknown)",
        )
    return labels
