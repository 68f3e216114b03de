"""MNIST and Fashion-MNIST from IDX files, plain or gzipped.

An IDX file (LeCun): two zero bytes, 8 = unsigned byte, the number of dimensions, each size as big-endian int32, the data.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch
from pydantic import Field as Option

from kdsearch.builtin.datasets.download import download_idx, root_of
from kdsearch.builtin.datasets.images import ImageOptions, Part, image_source
from kdsearch.builtin.datasets.pixels import Stored, as_images, check_memory
from kdsearch.builtin.packages import PACKAGES
from kdsearch.errors import DataError
from kdsearch.kinds import Dataset, DataSource, Services
from kdsearch.kit.files import opened
from kdsearch.limits import ARRAYS_BYTES

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class IdxOptions(ImageOptions):
    path: str | None = Option(
        None,
        description="folder of the four files (plain or .gz), or torchvision's root above them; null = known places",
    )
    download: bool = Option(False, description="fetch the files through torchvision where they are missing")


def read_idx(file: Path, n_dims: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The array of an IDX file of unsigned bytes with `n_dims` dimensions. Raise DataError for anything else."""
    try:
        with opened(file, "an IDX file", most=ARRAYS_BYTES) as raw, _unpacked(raw, file) as stream:
            head = stream.read(4 + 4 * n_dims)
            if len(head) < 4 + 4 * n_dims or head[:4] != bytes([0, 0, 8, n_dims]):
                raise DataError(
                    f"starts with {head[:4].hex(' ') or 'nothing'}",
                    file=file,
                    expected=f"00 00 08 {n_dims:02x}, an IDX file of unsigned bytes in {n_dims} dimensions",
                )
            shape = struct.unpack(f">{n_dims}I", head[4:])
            n_bytes = math.prod(shape)
            if 0 in shape[1:]:
                raise DataError(f"says its shape is {shape}", file=file, expected="images of a pixel or more")
            if n_bytes > ARRAYS_BYTES:
                raise DataError(f"says its shape is {shape}", file=file, expected=f"at most {ARRAYS_BYTES:,} bytes")
            check_memory(n_bytes, file)
            data = stream.read(n_bytes + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"not readable ({str(error)[:80]})",
            file=file,
            expected="a whole file" + (", gzipped" if file.suffix == ".gz" else ""),
            fix="Copy or download it again.",
        ) from error
    if len(data) != n_bytes:
        got = f"{len(data):,}" if len(data) < n_bytes else f"more than {n_bytes:,}"
        raise DataError(f"holds {got} bytes of data", file=file, expected=f"{n_bytes:,} bytes for its shape {shape}")
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def _unpacked(raw: BinaryIO, file: Path) -> BinaryIO:
    return gzip.open(raw, "rb") if file.suffix == ".gz" else raw  # type: ignore[return-value]  # it reads like one


class Idx(Dataset[IdxOptions]):
    """60,000 training and 10,000 test images, 28x28 grey, 10 classes; validation is carved from training."""

    name: ClassVar[str]
    torchvision: ClassVar[str]  # its class there, and its folder
    classes: ClassVar[tuple[str, ...]]
    origin: ClassVar[Mapping[str, str]]
    locations: ClassVar[tuple[str, ...]] = ()  # where the files are looked for when no path is given

    def __init__(self, options: IdxOptions) -> None:
        super().__init__(options)
        self.augments = options.augment != "none"

    def preflight(self, services: Services) -> None:
        if not self.options.download:
            self._folder(services)

    def open(self, services: Services) -> DataSource:
        parts = {}
        for split, (images, labels, file) in self.arrays(services).items():
            ids = tuple(f"{self.name}-{split}-{i:05d}" for i in range(len(labels)))
            parts[split] = Part(ids, Stored(as_images(images)), torch.from_numpy(labels.astype(np.int64)), file)
        return image_source(parts, self.classes, self.options, {"name": self.name, **self.origin})

    def arrays(self, services: Services) -> dict[str, tuple[Bytes, Bytes, Path]]:
        """`train` and `test`: images (N, 28, 28), labels (N,), and the file of these."""
        folder = self._folder(services)
        found = {}
        for split, stem in (("train", "train"), ("test", "t10k")):
            image_file, label_file = (
                _file(folder, f"{stem}-{rest}") for rest in ("images-idx3-ubyte", "labels-idx1-ubyte")
            )
            images, labels = read_idx(image_file, 3), read_idx(label_file, 1)
            if len(images) != len(labels):
                raise DataError(
                    f"{len(labels)} labels for the {len(images)} images of {image_file.name}", file=label_file
                )
            found[split] = images, labels, label_file
        return found

    def _folder(self, services: Services) -> Path:
        root = root_of(services, self.options.path, self.options.download)
        tried: Sequence[Path] = [root] if self.options.path is not None else [*map(Path, self.locations), root]
        for at in tried:
            for folder in (at, at / self.torchvision / "raw"):
                if folder.is_dir() and any(folder.glob("train-images-idx3-ubyte*")):
                    return folder
        if self.options.download:
            download_idx(self.torchvision, root)
            return root / self.torchvision / "raw"
        raise DataError(
            f"{self.name}: no train-images-idx3-ubyte[.gz] in {', '.join(map(str, tried))}",
            path="data.options.path",
            expected=f"the four IDX files there or in {self.torchvision}/raw (torchvision's layout)",
            fix=self._remedy(),
        )

    def _remedy(self) -> str:
        return "Set `path`, or `download: true` where a network is there."


class Mnist(Idx):
    """Hand-written digits."""

    name = "mnist"
    torchvision = "MNIST"
    classes = tuple("0123456789")
    origin: ClassVar[Mapping[str, str]] = {
        "source": "MNIST (LeCun, Cortes, Burges)",
        "licence": "CC BY-SA 3.0",
    }


class FashionMnist(Idx):
    """Articles of clothing (Xiao, Rasul, Vollgraf 2017)."""

    name = "fashion_mnist"
    torchvision = "FashionMNIST"
    classes = (
        "T-shirt/top",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    )
    origin: ClassVar[Mapping[str, str]] = {
        "source": "Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, arXiv 1708.07747), Zalando SE",
        "licence": "MIT",
    }
    locations = PACKAGES["fashion_mnist"].folders

    def _remedy(self) -> str:
        return f"Run `{PACKAGES['fashion_mnist'].install}`, set `path`, or `download: true` where a network is there."


def _file(folder: Path, stem: str) -> Path:
    """The plain file, or else the gzipped one."""
    for name in (stem, f"{stem}.gz"):
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"no {stem} or {stem}.gz", file=folder, expected="the four IDX files together")
