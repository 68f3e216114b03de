"""Samples that a Python program holds, as named tensors: columns of arrays, or a torch Dataset with its own transforms."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from kdsearch.engine.live_targets import TASKS, as_target
from kdsearch.errors import DataError, KdsearchError, told
from kdsearch.kinds import HIDDEN

WHITE = {torch.uint8: 255.0, torch.uint16: 65_535.0}  # of an image's pixels
NARROW = (torch.uint8, torch.int8, torch.int16, torch.uint16, torch.uint32)


class Samples(Protocol):
    """Named tensors of one sample at a time. `target`: the field that is learned, as a batch has it (see `live_targets`)."""

    target: str

    def __len__(self) -> int: ...

    def rows(self, index: Sequence[int], seeds: Sequence[int]) -> dict[str, Tensor]:
        """(B, ...) of the samples at `index`; sample i's own randomness, if any, comes from seeds[i]."""


class Columns:
    """Arrays or tensors with one row a sample."""

    def __init__(self, split: str, columns: Mapping[str, Any], target: str = "label") -> None:
        self.split, self.target = split, target
        self.columns = {name: _column(split, name, values) for name, values in columns.items()}
        lengths = {name: len(values) for name, values in self.columns.items()}
        if len(set(lengths.values())) > 1:
            shown = ", ".join(f"'{name}' {n}" for name, n in lengths.items())
            raise DataError(
                f"split '{split}': arrays of different length ({shown})", expected="one row a sample in each"
            )
        for name in sorted(self.columns.keys() - TASKS.keys()):
            _check_finite(name, self.columns[name], range(len(self)), split)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def rows(self, index: Sequence[int], seeds: Sequence[int]) -> dict[str, Tensor]:
        at = torch.as_tensor(index, dtype=torch.long)
        return {name: self._batched(name, values[at], index) for name, values in self.columns.items()}

    def column(self, name: str) -> Tensor:
        """(N, ...) of all samples."""
        return self._batched(name, self.columns[name], range(len(self)))

    def _batched(self, name: str, values: Tensor, index: Sequence[int]) -> Tensor:
        values = _pixels(name, values)
        return as_target(name, values, index, self.split) if name == self.target else values


class Items:
    """A map-style torch Dataset of (image, target), (image,) or dict samples; its transforms run at every load."""

    def __init__(self, split: str, dataset: Any, target: str = "label") -> None:
        self.split, self.dataset, self.target = split, dataset, target

    def __len__(self) -> int:
        return len(self.dataset)

    def rows(self, index: Sequence[int], seeds: Sequence[int]) -> dict[str, Tensor]:
        samples = []
        with _kept_rngs():
            for i, seed in zip(index, seeds, strict=True):
                _seed_all(seed)
                samples.append(self._named(i, self._read(i)))
        first = samples[0]
        for i, sample in zip(index, samples, strict=True):
            for name, value in sample.items():
                if name not in first or value.shape != first[name].shape:
                    shape = tuple(first[name].shape) if name in first else "no such field"
                    raise DataError(
                        f"sample {i} of split '{self.split}' has '{name}' of shape {tuple(value.shape)}, another has {shape}",
                        expected="one shape a field",
                        fix="Resize in the Dataset's own transform.",
                    )
        made = {name: _pixels(name, torch.stack([sample[name] for sample in samples])) for name in first}
        for name in sorted(made.keys() - TASKS.keys()):
            _check_finite(name, made[name], index, self.split)
        if self.target in made:
            made[self.target] = as_target(self.target, made[self.target], index, self.split)
        return made

    def _read(self, i: int) -> Any:
        try:
            return self.dataset[i]
        except KdsearchError:
            raise
        except Exception as error:
            raise DataError(f"sample {i} of split '{self.split}' cannot be read: {told(error)}") from error

    def _named(self, i: int, sample: Any) -> dict[str, Tensor]:
        if not isinstance(sample, Mapping):
            parts = tuple(sample) if isinstance(sample, tuple | list) else (sample,)
            if len(parts) > 2:
                raise DataError(
                    f"sample {i} of split '{self.split}' has {len(parts)} parts",
                    expected=f"(image, {self.target}), or a dict of named fields",
                )
            sample = dict(zip(("image", self.target), parts, strict=False))
        return {name: _item(self.split, i, name, value) for name, value in sample.items()}


def _column(split: str, name: str, values: Any) -> Tensor:
    try:
        column = values.detach().cpu() if isinstance(values, Tensor) else _of_numpy(np.asarray(values))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"split '{split}': '{name}' is no array of numbers", expected="numbers, one row a sample"
        ) from error
    if column.ndim == 0:
        raise DataError(f"split '{split}': '{name}' is a single number", expected="one row a sample")
    if name == "label" and column.ndim == 2 and column.shape[1] == 1:
        column = column[:, 0]
    return column


def _of_numpy(array: np.ndarray[Any, Any]) -> Tensor:
    """The same memory, where torch can have it."""
    return torch.from_numpy(np.require(array, requirements=("C", "W")))


def _item(split: str, i: int, name: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    try:
        array = np.array(value)  # numbers, arrays and PIL images
        if hasattr(value, "getbands") and array.ndim == 3:
            array = array.transpose(2, 0, 1)
        return torch.from_numpy(np.ascontiguousarray(array)) if array.ndim else torch.as_tensor(array.item())
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"sample {i} of split '{split}': '{name}' is a {type(value).__name__}",
            expected="a tensor, an array, an image or a number",
        ) from error


def _check_finite(name: str, values: Tensor, index: Sequence[int], split: str) -> None:
    """Raise DataError naming a sample that holds NaN or infinity: of targets alone it says that nobody knows them."""
    if values.is_floating_point() and not bool(values.isfinite().all()):
        at = tuple((~values.isfinite()).nonzero()[0].tolist())
        problem = f"'{name}' of sample {index[at[0]]} of split '{split}' holds {values[at].item()}"
        raise DataError(problem, expected="finite numbers")


def _pixels(name: str, values: Tensor) -> Tensor:
    """Images (B, C, H, W), bytes and 16 bits as fractions; class indices (B,) and token ids as int64; floats of any width as
    float32; else as they are.

    Raises:
        DataError: images of bytes as (H, W, C).
    """
    if name == "image":
        if values.dtype == torch.uint8 and values.ndim == 4 and values.shape[3] in (3, 4) and values.shape[1] > 4:
            shape = tuple(values.shape[1:])
            raise DataError(f"'image' of shape {shape}", expected="(C, H, W)", fix="Give image.transpose(2, 0, 1).")
        values = values.float() / WHITE[values.dtype] if values.dtype in WHITE else values
        values = values[:, None] if values.ndim == 3 else values
    if values.is_floating_point():
        values = values.float()
    if name == "tokens" and values.dtype in NARROW:  # few operations know them
        values = values.long()
    if name == "label" and not values.dtype.is_floating_point and values.dtype != torch.bool:
        values = values.long()
        values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    return values


def ids_in(samples: Mapping[str, Samples], name: str) -> set[int]:
    """The token ids or classes of any split, those that nobody knows left out."""
    found: set[int] = set()
    for split, each in samples.items():
        for start in range(0, len(each), 256):
            index = list(range(start, min(start + 256, len(each))))
            for row, ids in zip(index, each.rows(index, [0] * len(index)).get(name, ()), strict=False):
                known = ids.unique().tolist()
                if known and known[0] < 0 and name == "tokens":
                    raise DataError(
                        f"token id {known[0]} in sample {row} of split '{split}'",
                        expected="0 or more",
                        fix="Give padding any id of the vocabulary, and a `mask` that is 0 there.",
                    )
                found.update(known)
    return found - {HIDDEN}


def every(samples: Samples, name: str) -> Tensor:
    """(N, ...) of all samples."""
    if isinstance(samples, Columns):  # not its images beside it
        return samples.column(name)
    return torch.cat([samples.rows([i], [0])[name] for i in range(len(samples))])


def digests(rows: Mapping[str, Tensor], but: str) -> list[bytes]:
    """Of each row (B, ...) of all fields but one: equal for copies."""
    fields = [value.contiguous().numpy() for name, value in sorted(rows.items()) if name != but]
    return [
        hashlib.blake2b(b"".join(row.tobytes() for row in each), digest_size=16).digest()
        for each in zip(*fields, strict=True)
    ]


def seed_of(text: str) -> int:
    """A 32-bit seed, which every global generator takes."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")


def _seed_all(seed: int) -> None:
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


@contextmanager
def _kept_rngs() -> Iterator[None]:
    """A user's transforms draw from the global generators: these are afterwards what they were before."""
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])
