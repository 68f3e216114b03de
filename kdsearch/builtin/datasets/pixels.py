"""Pixels of a split: in memory or decoded on demand, and all at one size and number of channels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from kdsearch.errors import DataError
from kdsearch.kit import arrays

CHUNK = 4096  # images looked at at once
CHUNK_BYTES = 1 << 28  # of floats that are resized at once
FEWER = "Lower `resize` in data.options, take fewer images, or read them from a folder, which decodes on demand."


class Pixels(Protocol):
    """Where a split's images come from."""

    def __len__(self) -> int: ...

    def __call__(self, index: Sequence[int]) -> Tensor:
        """(B, C, H, W), uint8 in 0..255, or float32 in the file's own range."""


@dataclass(frozen=True)
class Stored:
    """Images in memory, (N, C, H, W)."""

    images: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def __call__(self, index: Sequence[int]) -> Tensor:
        return self.images[torch.as_tensor(index, dtype=torch.long)]


def chunks(images: Tensor, most: int = CHUNK) -> Iterator[Tensor]:
    return (images[start : start + most] for start in range(0, len(images), most))


def check_memory(n_bytes: int, file: object) -> None:
    """Raise DataError where so many bytes would not fit into the memory that is free now."""
    arrays.check_memory(n_bytes, file, FEWER)


def as_images(array: np.ndarray[Any, Any]) -> Tensor:
    """(N, H, W) or (N, H, W, C) -> (N, C, H, W), contiguous."""
    images = array[:, None] if array.ndim == 3 else array.transpose(0, 3, 1, 2)
    images = np.ascontiguousarray(images)
    return torch.from_numpy(images if images.flags.writeable else images.copy())


def fitted(images: Tensor, resize: int | None, channels: int | None) -> Tensor:
    """(N, C, H, W) scaled and cropped to `resize` square, with `channels`; grey becomes RGB as a view."""
    if channels == 1 and images.shape[1] == 3:
        from torchvision.transforms.v2 import functional as V

        images = torch.cat([V.rgb_to_grayscale(chunk) for chunk in chunks(images)])
    if resize is not None and tuple(images.shape[-2:]) != (resize, resize):
        from torchvision.transforms.v2 import functional as V

        made = images.new_empty(len(images), images.shape[1], resize, resize)
        scale = max(1.0, resize / min(images.shape[-2:])) ** 2  # torchvision scales in floats
        most = max(1, int(CHUNK_BYTES // (4 * scale * images[0].numel()))) if len(images) else 1
        for i, chunk in enumerate(chunks(images, most)):
            made[i * most : i * most + len(chunk)] = V.center_crop(V.resize(chunk, [resize], antialias=True), [resize])
        images = made
    if channels is not None and images.shape[1] != channels:
        if images.shape[1] != 1:
            raise DataError(
                f"images have {images.shape[1]} channels, but `channels` is {channels}",
                path="data.options.channels",
                expected="grey or RGB images",
            )
        images = images.expand(-1, channels, -1, -1)
    return images
