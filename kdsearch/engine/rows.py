"""Arrays with a row a sample in one flat file each; rows may differ in size, as sequences and sets of boxes do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdsearch.errors import ArtifactError
from kdsearch.ops.padding import stacked
from kdsearch.store.files import reserve, storing, write_bytes

Array = np.ndarray[Any, np.dtype[Any]]


class RowWriter:
    """Rows one after the other. Room for `n` rows like the first ones is asked for before anything is written."""

    def __init__(self, file: Path, n: int) -> None:
        self.file, self.n, self.n_bytes = file, n, 0
        self.sizes: list[tuple[int, ...]] = []
        self.dtype = np.dtype(np.float32)

    def add(self, rows: Sequence[Tensor] | Tensor) -> None:
        """Raise StorageError where the disk is full."""
        data = _stored(rows if isinstance(rows, Tensor) else torch.cat([row.flatten() for row in rows]))
        if not self.sizes:
            self.dtype = data.dtype
            with storing(self.file), self.file.open("wb") as stream:
                stream.truncate(self.projected(rows))
            reserve(self.file)
        self.sizes += [tuple(row.shape) for row in rows]
        with storing(self.file), self.file.open("r+b") as stream:
            stream.seek(self.n_bytes)
            stream.write(data.tobytes())
        self.n_bytes += data.nbytes

    def projected(self, rows: Sequence[Tensor] | Tensor) -> int:
        """Bytes of all n rows, should those to come be as large as these."""
        more = self.n - len(self.sizes)
        each = sum(row.numel() for row in rows) / max(len(rows), 1) * self.dtype.itemsize
        return self.n_bytes + int(each * more)

    def drop(self) -> None:
        """Delete what is written of it."""
        self.file.unlink(missing_ok=True)

    def close(self) -> dict[str, Any]:
        """What a reader needs to know: JSON."""
        with storing(self.file), self.file.open("r+b") as stream:
            stream.truncate(self.n_bytes)
        about: dict[str, Any] = {"file": self.file.name, "dtype": self.dtype.name}
        if len(set(self.sizes)) == 1:
            return {**about, "shape": list(self.sizes[0])}
        sizes = self.file.with_suffix(".sizes")
        write_bytes(sizes, np.asarray(self.sizes, dtype="<i8").tobytes())
        return {**about, "sizes": sizes.name, "rank": len(self.sizes[0])}


class Rows:
    """What a RowWriter wrote, memory-mapped."""

    def __init__(self, folder: Path, about: Mapping[str, Any], n: int) -> None:
        """Raise ArtifactError where a file has another length than it was written with."""
        dtype = np.dtype(about["dtype"])
        self.shape: tuple[int, ...] | None = tuple(about["shape"]) if "shape" in about else None
        if self.shape is None:
            self._sizes = _mapped(folder / about["sizes"], np.dtype("<i8"), n * about["rank"]).reshape(n, about["rank"])
            ends = np.cumsum(self._sizes.prod(1))
            self._starts = np.concatenate([[0], ends])
            self._flat = _mapped(folder / about["file"], dtype, int(self._starts[-1]))
        else:
            self._rows = _mapped(folder / about["file"], dtype, n * int(np.prod(self.shape))).reshape(n, *self.shape)

    def get(self, at: Array) -> list[Tensor] | Tensor:
        """Those at (B,): a tensor where all rows have one shape, else a row each."""
        if self.shape is not None:
            return torch.from_numpy(np.asarray(self._rows[at]))
        pieces = [(np.array(self._flat[self._starts[i] : self._starts[i + 1]]), self._sizes[i]) for i in at.tolist()]
        return [torch.from_numpy(flat.reshape(sizes)) for flat, sizes in pieces]


def as_batch(rows: list[Tensor] | Tensor) -> Tensor:
    """(B, *largest sizes), shorter rows filled up with 0."""
    return rows if isinstance(rows, Tensor) else stacked(rows)


def _stored(tensor: Tensor) -> Array:
    """On the CPU; floats as float32."""
    found = tensor.detach().float() if tensor.is_floating_point() else tensor.detach()
    array: Array = found.cpu().numpy()
    return array


def _mapped(file: Path, dtype: np.dtype[Any], n: int) -> Array:
    has = file.stat().st_size if file.is_file() else 0
    if has != n * dtype.itemsize:
        raise ArtifactError(f"{has:,} of {n * dtype.itemsize:,} bytes", file=file)
    return np.memmap(file, dtype, "r", shape=(n,)) if n else np.empty(0, dtype)
