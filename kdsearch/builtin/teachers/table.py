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
from pydantic import Field as Option
from torch import Generator, Tensor, nn

from kdsearch.errors import DataError
from kdsearch.kinds import IO, Access, Batch, Field, Model, Options, Services, Teacher
from kdsearch.kit import weights
from kdsearch.kit.arrays import read_arrays
from kdsearch.ops.padding import resized, stacked

IDS = "ids"
ROW = "table_row"
SHOWN = 3


class TableOptions(Options):
    path: str = Option(
        description="an .npz or .safetensors file, relative to the study: arrays (N, ...) by output field and the samples' `ids` "
        "(in safetensors a JSON list in the metadata), or an array a sample, named by its id"
    )


class Table(Teacher[TableOptions]):
    """An answer is of a sample, however that is augmented. No weights, no taps; it knows no sample that its file has not."""

    access = Access.LOGITS
    by_id = True

    def preflight(self, services: Services) -> None:
        _read(services.file(self.options.path), None)

    def model(self, io: IO, services: Services) -> Model:
        """Raise DataError where the file lacks samples of `train` or `val`, with their ids."""
        file, answer = services.file(self.options.path), io.outputs[0]
        ids, fields, self._lengths = _read(file, answer)
        self._places = {sample: i for i, sample in enumerate(ids)}
        for split in ("train", "val"):
            if split in services.data.splits:
                lacking = [sample for sample in services.data.split(split).ids if sample not in self._places]
                if lacking:
                    problem = f"has no answers to {len(lacking):,} samples of split '{split}': {_some(lacking)}"
                    raise DataError(problem, file=file, expected=f"every id of the split; it has {_some(ids)}")
        axis = _open_axis(answer)
        self._mask = answer.mask if answer.name in fields and axis is not None else ""
        rows = Rows(fields, digest_of(fields), {answer.name: axis} if self._mask and axis is not None else {})
        inputs = (ROW, self._mask) if self._mask else (ROW,)
        return Model(rows, inputs, outputs=tuple(fields), name=f"table {file.name}")

    def view(self, batch: Batch, rng: Generator) -> Batch:
        """Raise DataError, with their ids, for samples that the file has no answers to, or to fewer places than they have."""
        lacking = [sample for sample in batch.ids if sample not in self._places]
        if lacking:
            raise DataError(f"'{self.options.path}' has no answers to {len(lacking):,} samples: {_some(lacking)}")
        if self._mask and self._lengths:
            self._check_lengths(batch)
        like = next(iter(batch.tensors.values()), torch.zeros(0))
        return batch.having(**{ROW: torch.tensor([self._places[each] for each in batch.ids], device=like.device)})

    def _check_lengths(self, batch: Batch) -> None:
        mask = batch[self._mask]
        counted = (torch.arange(1, mask.shape[1] + 1, device=mask.device) * (mask != 0)).amax(1).tolist()
        for sample, n in zip(batch.ids, counted, strict=True):
            has = self._lengths[self._places[sample]]
            if has < n:
                problem = f"'{self.options.path}' answers {has} places of sample '{sample}', which has {n}"
                raise DataError(problem, expected="an answer to each place")

    def facts(self) -> Mapping[str, Any]:
        return {"source": Path(self.options.path).name}


class Rows(nn.Module):
    """(B,) rows -> (B, ...) of each table, in order; those of `axes` as long at that axis of a row as a mask (B, N) is."""

    digest: Tensor

    def __init__(self, tables: Mapping[str, Tensor], digest: Tensor, axes: Mapping[str, int]) -> None:
        super().__init__()
        self.names, self.axes = tuple(tables), dict(axes)
        for i, table in enumerate(tables.values()):
            self.register_buffer(f"table_{i}", table, persistent=False)
        self.register_buffer("digest", digest)  # all that a table's state is recognised by

    def forward(self, row: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        tables: list[Tensor] = [self.get_buffer(f"table_{i}")[row] for i in range(len(self.names))]
        if mask is None:
            return tuple(tables)
        return tuple(
            self._as_long(each, self.axes[name], mask.shape[1]) if name in self.axes else each
            for name, each in zip(self.names, tables, strict=True)
        )

    @staticmethod
    def _as_long(answers: Tensor, axis: int, size: int) -> Tensor:
        sizes = list(answers.shape[1:])
        sizes[axis] = size
        return resized(answers, sizes)


def digest_of(tables: Mapping[str, Tensor]) -> Tensor:
    """(32,) uint8 of names, shapes and values."""
    found = hashlib.sha256()
    for name, table in tables.items():
        found.update(f"{name}{table.dtype}{tuple(table.shape)}".encode())
        found.update(table.contiguous().numpy().tobytes())
    return torch.frombuffer(bytearray(found.digest()), dtype=torch.uint8)


def _read(file: Path, answer: Field | None) -> tuple[list[str], dict[str, Tensor], list[int]]:
    """Ids, tables (N, ...) by field, floats as float32, and how long each row of open length is, where that is known.

    answer: the field that an array a sample is of; None = the file is only looked at.
    """
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
        rows, axis = list(tensors.values()), _open_axis(answer)
        if answer is not None:
            _check_shapes(tensors, axis, file)
        lengths = [] if axis is None or rows[0].ndim <= axis else [row.shape[axis] for row in rows]
        return list(tensors), {answer.name if answer is not None else "": stacked(rows)}, lengths
    if len(set(ids)) < len(ids):
        twice = next(each for each, n in Counter(ids).items() if n > 1)
        raise DataError(f"id '{twice}' occurs twice", file=file, expected="one answer a sample")
    for name, tensor in tensors.items():
        if tensor.ndim == 0 or len(tensor) != len(ids):
            has = len(tensor) if tensor.ndim else "no"
            raise DataError(
                f"'{name}' has {has} rows, there are {len(ids):,} ids", file=file, expected="a row for each id"
            )
    told, axis = tensors.get(answer.name) if answer is not None else None, _open_axis(answer)
    lengths = [] if told is None or axis is None or told.ndim < axis + 2 else [told.shape[axis + 1]] * len(ids)
    return ids, tensors, lengths


def _open_axis(answer: Field | None) -> int | None:
    """The axis of a row that is as long as its sample."""
    return answer.shape.index(None) if answer is not None and None in answer.shape else None


def _check_shapes(rows: Mapping[str, Tensor], open_axis: int | None, file: Path) -> None:
    """Raise DataError where answers, an array a sample, are of unlike sizes elsewhere than in their length."""
    shapes = {name: tuple(n for axis, n in enumerate(row.shape) if axis != open_axis) for name, row in rows.items()}
    first = next(iter(shapes))
    for name, shape in shapes.items():
        if shape != shapes[first]:
            of = " and ".join(f"{tuple(rows[each].shape)} of '{each}'" for each in (first, name))
            raise DataError(f"holds answers of shape {of}", file=file, expected="equal shapes")


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
