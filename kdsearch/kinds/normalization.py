"""How pixels become what a network reads: (x - mean) / std, a channel each, of pixels x in 0..1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from kdsearch.errors import DataError

if TYPE_CHECKING:
    from kdsearch.kinds.data import DataSource


@dataclass(frozen=True)
class Normalization:
    """One number, or one a channel, each; `std` is not 0."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def of(self, channels: int) -> Normalization:
        """With a number for each of so many channels: one stands for all, three give grey their mean.

        Raises:
            DataError: any other number of numbers.
        """
        return Normalization(_spread(self.mean, channels), _spread(self.std, channels))

    def from_other(self, given: Normalization) -> tuple[Tensor, Tensor]:
        """(scale, shift), (C, 1, 1) float32: scale * image + shift is in this normalisation where the image is in `given`."""
        mean, std, own_mean, own_std = (
            torch.tensor(each, dtype=torch.float64) for each in (given.mean, given.std, self.mean, self.std)
        )
        scale, shift = std / own_std, (mean - own_mean) / own_std
        return scale.float().view(-1, 1, 1), shift.float().view(-1, 1, 1)

    def as_json(self) -> dict[str, Any]:
        """What a study would write: one number where all channels agree."""
        both = {"mean": self.mean, "std": self.std}
        return {name: values[0] if len(set(values)) == 1 else list(values) for name, values in both.items()}


IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
UNIT = Normalization((0.0,), (1.0,))  # pixels in 0..1 as they are
COMMON: Mapping[str, Normalization] = {  # what networks are usually trained on, by what a study or reader calls it
    "imagenet": IMAGENET,
    "none": UNIT,
    "-1..1": Normalization((0.5,), (0.5,)),
    "0..255": Normalization((0.0,), (1 / 255,)),
}


@runtime_checkable
class Normalizable(Protocol):
    """A source of images that can be had in another normalisation. `facts["preprocessing"]` has its `mean` and `std`."""

    def normalized(self, wanted: Normalization) -> DataSource:
        """Raise DataError where pixels in 0..1 cannot be told from the samples."""


def stated(facts: Mapping[str, Any]) -> Normalization | None:
    """The normalisation that a source says its images are in; None where it says nothing."""
    told = facts.get("preprocessing") or {}
    mean, std = told.get("mean"), told.get("std")
    if not mean or not std:
        return None
    return Normalization(tuple(float(each) for each in mean), tuple(float(each) for each in std))


def _spread(values: Sequence[float], channels: int) -> tuple[float, ...]:
    if len(values) == channels:
        return tuple(values)
    if len(values) == 1:
        return tuple(values) * channels
    if channels == 1 and len(values) == 3:
        return (sum(values) / 3,)
    raise DataError(
        f"{len(values)} numbers {list(values)} for images of {channels} channels",
        expected=f"one number, or {channels}",
    )
