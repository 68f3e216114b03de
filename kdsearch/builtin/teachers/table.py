"""Teacher `table`: answers that were stored before, looked up by sample id; the network that gave them is not needed any more."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from kdsearch.builtin.datasets.npz import read_arrays
from kdsearch.errors import DataError
from kdsearch.kinds import IO, Access, Batch, Model, Options, Services, Teacher
from kdsearch.kit import weights
from kdsearch.ops.padding import stacked

IDS = "ids"
ROW = "table_row"
SHOWN = 3


class TableOptions(Options):
    path: str = Field(
        description="an .npz or .safetensors file, relative to the study: arrays (N, ...) by output field and the samples' `ids` "
        "(in safetensors a JSON list in the metadata), or an array a sample, named by its id"
    )


class Table(Teacher[TableOptions]):
    """An answer is of a sample, however that is augmented. No weights, no taps; it knows no sample that its file has not."""

    access = Access.LOGITS
    by_id = True

    def preflight(self, services: Services) -> None:
        _read(services.file(self.options.path), "")

    def model(self, io: IO, services: Services) -> Model:
        """Raise DataError where the file lacks samples of `train` or `val`, with their ids."""
        file = services.file(self.options.path)
        ids, fields = _read(file, io.outputs[0].name)
        self._places = {sample: i for i, sample in enumerate(ids)}
        for split in ("train", "val"):
            if split in services.data.splits:
                lacking = [sample for sample in services.data.split(split).ids if sample not in self._places]
                if lacking:
                    problem = f"has no answers to {len(lacking):,} samples of split '{split}': {_some(lacking)}"
                    raise DataError(problem, file=file, expected=f"every id of the split; it has {_some(ids)}")
        own = digest_of(fields)
        return Model(Rows(fields, own), (ROW,), outputs=tuple(fields), name=f"table {file.name}")

    def view(self, batch: Batch, rng: Generator) -> Batch:
        """Raise DataError, with their ids, for samples that the file has no answers to."""
        lacking = [sample for sample in batch.ids if sample not in self._places]
        if lacking:
            raise DataError(f"'{self.options.path}' has no answers to {len(lacking):,} samples: {_some(lacking)}")
        like = next(iter(batch.tensors.values()), torch.zeros(0))
        return batch.having(**{ROW: torch.tensor([self._places[each] for each in batch.ids], device=like.device)})

    def facts(self) -> Mapping[str, Any]:
        return {"source": Path(self.options.path).name}


class Rows(nn.Module):
    """(B,) rows -> (B, ...) of each table, in order."""

    digest: Tensor

    def __init__(self, tables: Mapping[str, Tensor], digest: Tensor) -> None:
        super().__init__()
        self.names = tuple(tables)
        for i, table in enumerate(tables.values()):
            self.register_buffer(f"table_{i}", table, persistent=False)
        self.register_buffer("digest", digest)  # all that a table's state is recognised by

    def forward(self, row: Tensor) -> tuple[Tensor, ...]:
        tables: list[Tensor] = [self.get_buffer(f"table_{i}") for i in range(len(self.names))]
        return tuple(table[row] for table in tables)


def digest_of(tables: Mapping[str, Tensor]) -> Tensor:
    """(32,) uint8 of names, shapes and values."""
    found = hashlib.sha256()
    for name, table in tables.items():
        found.update(f"{name}{table.dtype}{tuple(table.shape)}".encode())
        found.update(table.contiguous().numpy().tobytes())
    return torch.frombuffer(bytearray(found.digest()), dtype=torch.uint8)


def _read(file: Path, answer: str) -> tuple[list[str], dict[str, Tensor]]:
    """Ids, and tables (N, ...) by field, floats as float32; `answer`: the field that an array a sample is of."""
    if file.suffix == ".safetensors":
        tensors, ids = weights.read(file), _ids_in(file)
    elif file.suffix == ".npz":
        arrays = read_arrays(file)
        ids = [str(each) for each in arrays.pop(IDS).ravel().tolist()] if IDS in arrays else None
        tensors = {name: _tensor(array, name, file) for name, array in arrays.items()}
    else:
        raise DataError(f"'{file.suffix}' is no table", file=file, expected="an .npz or .safetensors file")
    tensors = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    if not tensors:
        raise DataError("holds no answers", file=file, expected="arrays (N, ...) by output field, or an array a sample")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise DataError(f"'{name}' holds values that are not finite", file=file, expected="finite answers")
    if ids is None:
        ranks = {each.ndim for each in tensors.values()}
        if len(ranks) > 1:
            raise DataError(
                "its samples' answers have unlike numbers of axes", file=file, expected="answers to one question"
            )
        return list(tensors), {answer: stacked(list(tensors.values()))}
    if len(set(ids)) < len(ids):
        twice = next(each for each, n in Counter(ids).items() if n > 1)
        raise DataError(f"id '{twice}' occurs twice", file=file, expected="one answer a sample")
    for name, tensor in tensors.items():
        if tensor.ndim == 0 or len(tensor) != len(ids):
            has = len(tensor) if tensor.ndim else "no"
            raise DataError(
                f"'{name}' has {has} rows, there are {len(ids):,} ids", file=file, expected="a row for each id"
            )
    return ids, tensors


def _ids_in(file: Path) -> list[str] | None:
    said = weights.read_metadata(file).get(IDS)
    if said is None:
        return None
    try:
        found = json.loads(said)
        if isinstance(found, list) and all(isinstance(each, str) for each in found):
            return found
    except ValueError:
        pass
    raise DataError(
        "its metadata's 'ids' is no JSON list of texts", file=file, expected='["id of row 0", "id of row 1", ...]'
    )


def _tensor(array: np.ndarray[Any, Any], name: str, file: Path) -> Tensor:
    if not np.issubdtype(array.dtype, np.number) and array.dtype != np.bool_:
        raise DataError(
            f"array '{name}' is {array.dtype}", file=file, expected=f"numbers, and the samples' ids as '{IDS}'"
        )
    if np.issubdtype(array.dtype, np.floating):  # torch knows no wider ones
        array = array.astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(array))


def _some(ids: Sequence[str]) -> str:
    shown = ", ".join(f"'{each}'" for each in ids[:SHOWN])
    return f"{shown} and {len(ids) - SHOWN:,} more" if len(ids) > SHOWN else shown
