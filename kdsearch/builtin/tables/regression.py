"""Task `regression`: numbers in their own units; what is not known of a sample's is NaN and counts nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field as Option
from torch import Generator, Tensor
from torch.nn import functional as F

from kdsearch.builtin.tables.inputs import inputs_of
from kdsearch.builtin.tables.value_figures import value_figures
from kdsearch.errors import DataError
from kdsearch.kinds import IO, Batch, DataSource, Field, Figure, Options, Outputs, Predict, Services, Task

TARGET, VALUE = "target", "value"


class RegressionOptions(Options):
    loss: Literal["mse", "huber"] = Option(
        "mse", description="of the error in standard deviations of the training targets"
    )
    delta: float = Option(
        1.0, gt=0, description="huber: the error, in standard deviations, from which it grows linearly"
    )


class Regression(Task[RegressionOptions]):
    """Reads every input field of floats, categories, tokens and their mask, and `target` (B, K).

    Answers `value` (B, K), in the target's units. Errors are divided by the target's deviation in training, where the data say it,
    so that targets of different units weigh the same.
    """

    objective: ClassVar[str] = "rmse"
    metrics: ClassVar[tuple[str, ...]] = ("rmse", "mae", "r2")

    def __init__(self, options: RegressionOptions) -> None:
        super().__init__(options)
        self._std: tuple[float, ...] = ()

    def io(self, fields: Sequence[Field], facts: Mapping[str, Any]) -> IO:
        """Raise DataError without an input, or without a field `target` (K,) of floats."""
        inputs = inputs_of(fields, "regression")
        found = [each for each in fields if each.name == TARGET and each.use == "target"]
        if not found or len(found[0].shape) != 1 or not found[0].torch_dtype.is_floating_point:
            has = ", ".join(f"{each.name} ({each.kind}, {each.dtype})" for each in fields) or "no field"
            raise DataError(f"regression: the data set has {has}", expected=f"a target '{TARGET}' (K,) of floats")
        self._std = found[0].std
        return IO(inputs, (replace(found[0], name=VALUE, kind="value", use="extra"),))

    def loss(self, out: Outputs, batch: Batch) -> Tensor:
        """Mean over the numbers that are known."""
        value, target = out[VALUE], batch[TARGET]
        known = ~target.isnan()
        error = torch.where(known, value - target.nan_to_num(), 0.0)
        if self._std:
            error = error / error.new_tensor(self._std)
        zero = torch.zeros_like(error)
        each = (
            error.square()
            if self.options.loss == "mse"
            else F.huber_loss(error, zero, reduction="none", delta=self.options.delta)
        )
        return each.sum() / known.sum().clamp(min=1)

    def dummy(self, io: IO, n: int, rng: Generator) -> Batch:
        """Noise with targets as the data's are spread."""
        return super().dummy(io, n, rng).having(**{TARGET: io.output(VALUE).noise(n, rng)})

    def figures(self, predict: Predict, data: DataSource, split: str, services: Services) -> Sequence[Figure]:
        """Answer against truth, and how large the errors are."""
        return value_figures(predict, data, split)
