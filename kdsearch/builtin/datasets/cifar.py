"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) from their own files: the python version or the binary one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field as Option

from kdsearch.builtin.datasets.download import download_archive, root_of
from kdsearch.builtin.datasets.images import ImageOptions, Part, image_source
from kdsearch.builtin.datasets.pixels import Stored
from kdsearch.builtin.datasets.plain_pickle import read_plain_pickle
from kdsearch.errors import DataError
from kdsearch.kinds import Dataset, DataSource, Services
from kdsearch.kit.files import content, lies
from kdsearch.limits import PICKLE_BYTES, STUDY_BYTES

PIXELS = 3 * 32 * 32
Rows = tuple[np.ndarray[Any, np.dtype[np.uint8]], np.ndarray[Any, np.dtype[np.int64]]]  # (N, 3072), (N,)


class CifarOptions(ImageOptions):
    path: str | None = Option(
        None,
        description="folder of the batches, or the root above `cifar-10-batches-py` (torchvision's layout); null = cache",
    )
    download: bool = Option(False, description="fetch the python version through torchvision where it is missing")


class Cifar(Dataset[CifarOptions]):
    """50,000 training and 10,000 test images, 32x32 RGB; validation is carved from training."""

    name: ClassVar[str]
    torchvision: ClassVar[str]
    python: ClassVar[tuple[str, tuple[str, ...], str, str]]  # folder, training files, test file, file of names
    binary: ClassVar[tuple[str, tuple[str, ...], str, str]]
    keys: ClassVar[tuple[str, str]]  # in the pickles: labels, class names
    n_classes: ClassVar[int]
    label_bytes: ClassVar[int]  # before the pixels of a binary record; the last is the class
    origin: ClassVar[Mapping[str, str]]

    def __init__(self, options: CifarOptions) -> None:
        super().__init__(options)
        self.augments = options.augment != "none"

    def preflight(self, services: Services) -> None:
        if not self.options.download:
            self._folder(services)

    def open(self, services: Services) -> DataSource:
        folder, is_python = self._folder(services)
        _, train, test, names = self.python if is_python else self.binary
        read = self._pickled if is_python else self._record_file
        classes = self._pickled_names(folder / names) if is_python else self._plain_names(folder / names)
        parts = {}
        for split, files in (("train", train), ("test", (test,))):
            rows = [read(_there(folder / file)) for file in files]
            pixels, labels = (np.concatenate(each) for each in zip(*rows, strict=True))
            ids = tuple(f"{self.name}-{split}-{i:05d}" for i in range(len(labels)))
            images = torch.from_numpy(pixels.reshape(-1, 3, 32, 32))
            parts[split] = Part(ids, Stored(images), torch.from_numpy(labels), folder / files[0])
        return image_source(parts, classes, self.options, {"name": self.name, **self.origin})

    def _folder(self, services: Services) -> tuple[Path, bool]:
        root = root_of(services, self.options.path, self.options.download)
        for is_python, (below, train, _, _) in ((True, self.python), (False, self.binary)):
            for folder in (root / below, root):
                if (folder / train[0]).is_file():
                    return folder, is_python
        if self.options.download:
            download_archive(self.torchvision, root)
            return root / self.python[0], True
        raise DataError(
            f"{self.name}: neither {self.python[0]}/{self.python[1][0]} nor {self.binary[0]}/{self.binary[1][0]}",
            file=root,
            path="data.options.path",
            expected="the unpacked archive, python or binary version",
            fix="Set `path` to the folder above it, or `download: true` where a network is there.",
        )

    def _pickled(self, file: Path) -> Rows:
        found = read_plain_pickle(file)
        data, labels = found.get("data"), found.get(self.keys[0])
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != PIXELS:
            shown = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
            raise DataError(f"'data' is {shown}", file=file, expected=f"an array uint8 (N, {PIXELS})")
        if not isinstance(labels, list) or len(labels) != len(data) or not all(isinstance(y, int) for y in labels):
            n = len(labels) if isinstance(labels, list) else type(labels).__name__
            raise DataError(f"'{self.keys[0]}' is {n}", file=file, expected=f"a list of {len(data)} integers")
        return data, _in_range(np.array(labels, dtype=object), self.n_classes, file)

    def _record_file(self, file: Path) -> Rows:
        record = self.label_bytes + PIXELS
        data = np.frombuffer(content(file, "binary records", most=PICKLE_BYTES), dtype=np.uint8)
        if not len(data) or len(data) % record:
            raise DataError(
                f"{len(data):,} bytes", file=file, expected=f"a multiple of {record:,}, the bytes of a record"
            )
        rows = data.reshape(-1, record)
        labels = rows[:, self.label_bytes - 1].astype(np.int64)
        return rows[:, self.label_bytes :], _in_range(labels, self.n_classes, file)

    def _pickled_names(self, file: Path) -> tuple[str, ...]:
        names = read_plain_pickle(_there(file)).get(self.keys[1])
        if not isinstance(names, list):
            raise DataError(f"no list '{self.keys[1]}'", file=file, expected=f"the names of {self.n_classes} classes")
        return self._checked([name.decode() if isinstance(name, bytes) else str(name) for name in names], file)

    def _plain_names(self, file: Path) -> tuple[str, ...]:
        text = content(_there(file), "names", most=STUDY_BYTES).decode("ascii", "replace")
        return self._checked([line.strip() for line in text.splitlines() if line.strip()], file)

    def _checked(self, names: list[str], file: Path) -> tuple[str, ...]:
        if len(names) != self.n_classes:
            raise DataError(f"names {len(names)} classes", file=file, expected=f"{self.n_classes}")
        return tuple(names)


def _there(file: Path) -> Path:
    if not lies(file):
        raise DataError(f"no {file.name}", file=file.parent, expected="every file of the unpacked archive")
    return file


def _in_range(labels: np.ndarray[Any, Any], n_classes: int, file: Path) -> np.ndarray[Any, np.dtype[np.int64]]:
    wrong = np.flatnonzero((labels < 0) | (labels >= n_classes))
    if len(wrong):
        raise DataError(f"label {labels[wrong[0]]} of record {wrong[0]}", file=file, expected=f"0..{n_classes - 1}")
    return labels.astype(np.int64)


class Cifar10(Cifar):
    """Ten classes of objects."""

    name = "cifar10"
    torchvision = "CIFAR10"
    python = ("cifar-10-batches-py", tuple(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
    binary = (
        "cifar-10-batches-bin",
        tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        "test_batch.bin",
        "batches.meta.txt",
    )
    keys = ("labels", "label_names")
    n_classes = 10
    label_bytes = 1
    origin: ClassVar[Mapping[str, str]] = {
        "source": "CIFAR-10 (Krizhevsky 2009)",
        "licence": "not stated by its authors; subset of 80 Million Tiny Images",
    }


class Cifar100(Cifar):
    """A hundred fine classes of objects."""

    name = "cifar100"
    torchvision = "CIFAR100"
    python = ("cifar-100-python", ("train",), "test", "meta")
    binary = ("cifar-100-binary", ("train.bin",), "test.bin", "fine_label_names.txt")
    keys = ("fine_labels", "fine_label_names")
    n_classes = 100
    label_bytes = 2
    origin: ClassVar[Mapping[str, str]] = {
        "source": "CIFAR-100 (Krizhevsky 2009)",
        "licence": "not stated by its authors; subset of 80 Million Tiny Images",
    }
