"""What a teacher read of a sample, as one number: rows that are stored of a sample are of these values and no others."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from kdsearch.errors import DataError
from kdsearch.kinds import Batch

ODD = (-7046029254386353131, -4417276706812531889, -8796714831421723037, 6364136223846793005, 1442695040888963407)
AT_ONCE = 2**20  # words that are widened to 64 bits at a time


@dataclass(frozen=True)
class Seen:
    """The fields of a batch that a teacher reads.

    Args:
        fields: name -> what pads it where its length is open, else None.
    """

    fields: Mapping[str, float | None]

    def of(self, batch: Batch) -> Tensor | None:
        """(B,) int64 on the CPU, equal where all the values are, however far they are padded; None where a field is missing.

        A linear hash modulo 2^64 of the bits: two different samples agree by chance, once in 10^9 where only signs differ.
        """
        total = torch.zeros(len(batch), dtype=torch.int64)
        for name, padding in self.fields.items():
            found = _of_field(batch, name, padding)
            if found is None:
                return None
            total = total + _mixed(found.cpu()) * _number(name)
        return total


def _of_field(batch: Batch, name: str, padding: float | None) -> Tensor | None:
    if name in batch.tensors:
        rows = batch.tensors[name]
        return _of_rows(rows) if padding is None else _of_open(rows, padding)
    if name in batch.lists:
        return torch.stack([_of_open(row[None], 0)[0] + _number(str(tuple(row.shape))) for row in batch.lists[name]])
    if name in batch.texts:
        return torch.tensor([_number(text) for text in batch.texts[name]], dtype=torch.int64)
    return None


def _of_rows(rows: Tensor) -> Tensor:
    """(B,) of (B, ...): the bits, four bytes at a time.

    In words of eight, a sign that changes would be 2^63 times an odd factor, and two of them nothing.
    """
    flat = rows.contiguous().flatten(1) if rows.ndim > 1 else rows.contiguous()[:, None]
    data = flat.view(torch.uint8)
    if data.shape[1] % 4:
        data = torch.nn.functional.pad(data, (0, 4 - data.shape[1] % 4))
    elif data.storage_offset() % 4 or data.stride(0) % 4:
        data = data.clone(memory_format=torch.contiguous_format)
    words = data.view(torch.int32)  # (B, W)
    factors = _factors((words.shape[1],), words.device)
    parts = torch.split(words, max(1, AT_ONCE // max(1, words.shape[1])))
    if words.device.type == "cpu":
        return torch.cat([part.to(torch.int64) @ factors for part in parts])
    return torch.cat([(part * factors).sum(1) for part in parts])


def _of_open(rows: Tensor, padding: float) -> Tensor:
    """(B,) of (B, ...): 0 for padding, so that it does not matter how much of it there is."""
    bits = _bits(rows) - _bits(torch.tensor([padding], dtype=rows.dtype, device=rows.device))
    if bits.ndim == 1:
        return bits
    return (bits * _factors(tuple(bits.shape[1:]), bits.device)).flatten(1).sum(1)


def _bits(rows: Tensor) -> Tensor:
    if not rows.is_floating_point():
        return rows.to(torch.int64)
    if rows.element_size() == 8:
        return _mixed(rows.contiguous().view(torch.int64))  # a sign of 2^63 would not count in every other place
    return rows.contiguous().view({2: torch.int16, 4: torch.int32}[rows.element_size()]).to(torch.int64)


@lru_cache(maxsize=64)
def _factors(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Odd numbers that depend on the position, not on the sizes."""
    if len(shape) > len(ODD):
        raise DataError(f"a field of {len(shape)} axes", expected=f"at most {len(ODD)}")
    place = torch.ones((), dtype=torch.int64)
    for axis, size in enumerate(shape):
        here = (torch.arange(size, dtype=torch.int64) + 1) * ODD[axis]
        place = _mixed(place[..., None] + here)
    return (place | 1).to(device)


def _mixed(value: Tensor) -> Tensor:
    """Every bit of the result depends on all bits of the value."""
    value = (value ^ (value >> 31)) * ODD[0]
    return (value ^ (value >> 29)) * ODD[1]


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True) | 1
