"""Metrics of regression: rmse, mae, r2, by torchmetrics; in the target's units, the mean over several targets.

All read a split in its order. Numbers that are not known are left out; the teacher's word does not stand in for them.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from kdsearch.errors import DataError
from kdsearch.kinds import DataSource, Measurement, Metric, NoOptions, Options, Predict, Services

CHUNK = 256  # samples a forward pass


def functional() -> Any:
    """torchmetrics, imported where it is used: it takes seconds."""
    import torchmetrics.functional.regression as found

    return found


def answers(predict: Predict, data: DataSource, split: str) -> tuple[Tensor, Tensor]:
    """(values, targets), (N, K) float64, of the samples of which every target is known. Raise DataError when there is none."""
    samples = data.split(split)
    rows = []
    for start in range(0, len(samples.ids), CHUNK):
        batch = samples.load(range(start, min(start + CHUNK, len(samples.ids))))
        target = batch["target"].double().cpu()
        known = ~target.isnan().any(1)
        rows.append((predict(batch)["value"].detach().double().cpu()[known], target[known]))
    values, targets = (
        (torch.cat(each) for each in zip(*rows, strict=True)) if rows else (torch.zeros(0), torch.zeros(0))
    )
    if not len(targets):
        raise DataError(
            f"split '{split}' has {len(samples.ids)} samples and no known target", expected="numbers to compare with"
        )
    return values, targets


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
        each = functional().mean_squared_error(values, targets, squared=False, num_outputs=values.shape[1])
        squares = (values - targets).square()
        found = {"rmse": float(each.mean()), "n": float(len(targets))}
        return Measurement(found, squares, lambda mean: float(mean.sqrt().mean()))


class Mae(Metric[ErrorOptions]):
    """Mean absolute error; of several targets the mean over them."""

    title = "MAE"
    direction: ClassVar[Literal["max", "min"]] = "min"

    def __init__(self, options: ErrorOptions) -> None:
        super().__init__(options)
        self.unit = options.unit

    def measure(self, predict: Predict, data: DataSource, split: str, services: Services) -> dict[str, float]:
        values, targets = answers(predict, data, split)
        found = functional().mean_absolute_error(values.flatten(), targets.flatten())
        return Measurement({"mae": float(found), "n": float(len(targets))}, (values - targets).abs().mean(1))


class R2(Metric[NoOptions]):
    """Share of the targets' variance that the answers explain, at most 1; of several targets the mean over them."""

    title = "R²"

    def measure(self, predict: Predict, data: DataSource, split: str, services: Services) -> dict[str, float]:
        values, targets = answers(predict, data, split)
        if len(targets) < 2:
            return {"r2": float("nan"), "n": float(len(targets))}
        found = functional().r2_score(values, targets)
        centred = targets - targets.mean(0)  # so that variances lose no digits
        rows = torch.stack([(values - targets).square(), centred.square(), centred], 1)  # (N, 3, K)

        def r2(mean: Tensor) -> float:
            error, square, level = mean
            return float((1 - error / (square - level.square())).mean())

        return Measurement({"r2": float(found), "n": float(len(targets))}, rows, r2)
