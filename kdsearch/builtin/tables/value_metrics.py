"""Metrics of regression: rmse, mae, r2; in the target's units, the mean over several targets.

All read a split in its order. A number that is not known is left out of its own target's mean; the teacher's word does not stand in
for it, and a target of which nothing is known counts nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from kdsearch.errors import DataError
from kdsearch.kinds import DataSource, Measurement, Metric, NoOptions, Options, Predict, Services

CHUNK = 256  # samples a forward pass
NO_VARIANCE = 1e-15  # of numbers whose largest is 1: what rounding leaves of equal ones


def answers(predict: Predict, data: DataSource, split: str) -> tuple[Tensor, Tensor]:
    """(values, targets), (N, K) float64, of the samples with a target that is known; others of theirs are NaN.

    Raise DataError when there is none.
    """
    samples = data.split(split)
    rows = []
    for start in range(0, len(samples.ids), CHUNK):
        batch = samples.load(range(start, min(start + CHUNK, len(samples.ids))))
        target = batch["target"].double().cpu()
        known = ~target.isnan().all(1)
        rows.append((predict(batch)["value"].detach().double().cpu()[known], target[known]))
    values, targets = (
        (torch.cat(each) for each in zip(*rows, strict=True)) if rows else (torch.zeros(0), torch.zeros(0))
    )
    if not len(targets):
        raise DataError(
            f"split '{split}' has {len(samples.ids)} samples and no known target", expected="numbers to compare with"
        )
    return values, targets


def over_known(name: str, known: Tensor, each: Sequence[Tensor], of_target: Callable[..., Tensor]) -> Measurement:
    """The mean over targets of `of_target`, which makes (K,) of (K,) means of `each`.

    known: (N, K) bool; a target of which nothing is known is left out. each: numbers (N, K), read where they are known.
    """
    rows = torch.stack([known.double(), *(torch.where(known, one, 0.0) for one in each)], 1)

    def of(mean: Tensor) -> float:
        share, *sums = mean
        return float(of_target(*(one / share for one in sums))[share > 0].mean())

    return Measurement({name: of(rows.mean(0)), "n": float(len(rows))}, rows, of)


class ErrorOptions(Options):
    unit: str = Field(
        "", pattern=r"^(\S(.{0,22}\S)?)?$", description="of the target, such as mpg or °C: said beside every value"
    )

    @field_validator("unit")
    @classmethod
    def _is_one(cls, unit: str) -> str:
        if unit == "share":
            raise ValueError("'share' is of values between 0 and 1; expected the target's unit, such as mpg")
        return unit


class Rmse(Metric[ErrorOptions]):
    """Root of the mean squared error; of several targets the mean over them."""

    title = "RMSE"
    direction: ClassVar[Literal["max", "min"]] = "min"

    def __init__(self, options: ErrorOptions) -> None:
        super().__init__(options)
        self.unit = options.unit

    def measure(self, predict: Predict, data: DataSource, split: str, services: Services) -> dict[str, float]:
        values, targets = answers(predict, data, split)
        return over_known("rmse", ~targets.isnan(), [(values - targets).square()], torch.sqrt)


class Mae(Metric[ErrorOptions]):
    """Mean absolute error; of several targets the mean over them."""

    title = "MAE"
    direction: ClassVar[Literal["max", "min"]] = "min"

    def __init__(self, options: ErrorOptions) -> None:
        super().__init__(options)
        self.unit = options.unit

    def measure(self, predict: Predict, data: DataSource, split: str, services: Services) -> dict[str, float]:
        values, targets = answers(predict, data, split)
        return over_known("mae", ~targets.isnan(), [(values - targets).abs()], lambda mean: mean)


class R2(Metric[NoOptions]):
    """Share of the targets' variance that the answers explain, at most 1; of several targets the mean over them.

    Of a target that does not vary it is 1 where every answer is right, else 0, as scikit-learn says.
    """

    title = "R²"

    def measure(self, predict: Predict, data: DataSource, split: str, services: Services) -> dict[str, float]:
        values, targets = answers(predict, data, split)
        known = ~targets.isnan()
        centred = torch.where(known, targets - targets.nanmean(0), 0.0)  # so that variances lose no digits
        centred = torch.where(highest(targets) == -highest(-targets), 0.0, centred)
        scale = centred.abs().amax(0)
        scale = torch.where(scale > 0, scale, 1.0)  # so that what is no variance does not depend on units
        error, centred = (values - targets) / scale, centred / scale
        return over_known("r2", known & (known.sum(0) > 1), [error.square(), centred.square(), centred], explained)


def highest(targets: Tensor) -> Tensor:
    """(K,) of (N, K) with NaN."""
    return targets.nan_to_num(-torch.inf).amax(0)


def explained(error: Tensor, square: Tensor, level: Tensor) -> Tensor:
    """(K,) from means of squared errors, of squared targets and of targets whose largest is about 1."""
    variance = square - level.square()
    whole = torch.where(error == 0, 1.0, 0 * error)
    return torch.where(variance > NO_VARIANCE, 1 - error / variance.clamp(min=NO_VARIANCE), whole)
