"""Training images that are moved and mirrored, each under a seed of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

Augmentation = Literal["none", "shift", "crop", "crop_flip"]
PADS: Mapping[str, int] = {"shift": 16, "crop": 8, "crop_flip": 8}  # side / pad = pixels that an image may move


def id_hash(text: str) -> bytes:
    """Eight bytes that are a function of the text alone."""
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def sample_seed(seed: int, sample: str) -> int:
    """The 64-bit seed of one sample's augmentation: of nothing but the pass's seed and the sample's id."""
    return int.from_bytes(id_hash(f"{seed}\0{sample}"), "big")


@contextmanager
def kept_rng() -> Iterator[None]:
    """torch's global CPU generator is afterwards what it was before."""
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


def augmented(images: Tensor, ids: Sequence[str], seed: int, augmentation: Augmentation) -> Tensor:
    """(B, C, H, W), each image changed by torchvision under its own seed, whatever batch it is in; black beyond borders."""
    from torchvision.transforms import v2

    h, w = images.shape[-2:]
    padding = max(1, min(h, w) // PADS[augmentation])
    padded = v2.functional.pad(images, [padding])
    changes: list[Any] = [v2.RandomCrop((h, w))]
    if augmentation == "crop_flip":
        changes.append(v2.RandomHorizontalFlip())
    out = torch.empty_like(images, memory_format=torch.contiguous_format)
    with kept_rng():
        for i, sample in enumerate(ids):
            # the CPU generator alone: torch.manual_seed would reseed accelerators too
            torch.default_generator.manual_seed(sample_seed(seed, sample))
            image = padded[i]
            for change in changes:
                image = change(image)
            out[i] = image
    return out
