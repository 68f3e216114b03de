"""Metric: a measure of predictions on a split; any metric can be an objective."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Generic, Literal

from kdsearch.kinds.data import DataSource
from kdsearch.kinds.options import Capability, O
from kdsearch.kinds.services import Services
from kdsearch.kinds.task import Predict


class Metric(Capability, Generic[O]):
    """`predict` is the product's call: torch model and loaded file are measured by one code."""

    direction: ClassVar[Literal["max", "min"]] = "max"

    def __init__(self, options: O) -> None:
        self.options = options

    @abstractmethod
    def measure(self, predict: Predict, data: DataSource, split: str, services: Services) -> dict[str, float]:
        """Values by name; the metric's own name is among them. Where labels are hidden, say what stands in for them."""
