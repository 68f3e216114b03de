"""Metric: a measure of predictions on a split; any metric can be an objective."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import ClassVar, Generic, Literal

from torch import Tensor

from kdsearch.kinds.data import DataSource
from kdsearch.kinds.options import Capability, O
from kdsearch.kinds.services import Services
from kdsearch.kinds.task import Predict


class Measurement(dict[str, float]):
    """A metric's values by name with what an interval is taken from.

    Args:
        values: the metric's own name among them; `n` = how many items were judged (images, pixels, nodes).
        rows: (N, ...) what each independent item adds, such as its loss, or its intersection and union of each class.
        of: the metric of the mean over rows, (...) -> float; left out: rows are (N,) and their mean is the metric.
        of_classes: the metric of a group of classes, as the field takes it: accuracy of their samples, mean IoU over them; NaN
            where the split has none of them. For methods that learn classes one after another (`Phase.classes`).
    """

    def __init__(
        self,
        values: Mapping[str, float],
        rows: Tensor | None = None,
        of: Callable[[Tensor], float] | None = None,
        of_classes: Callable[[Collection[int]], float] | None = None,
    ) -> None:
        super().__init__(values)
        self.rows, self.of, self.of_classes = rows, of, of_classes


class Metric(Capability, Generic[O]):
    """`predict` is the product's call: torch model and loaded file are measured by one code."""

    direction: ClassVar[Literal["max", "min"]] = "max"
    unit: str = ""  # "share" = in [0, 1], shown as per cent; else its unit, such as "nats" or "px"; "" = a number
    title: str = ""  # what people call it, its options included, such as nDCG@10; "" = by its name
    proportion: ClassVar[bool] = False  # the share of `n` independent items that were right: its interval is Wilson's
    reads_scores: ClassVar[bool] = False  # more than what is decided: no file that answers the class alone has it

    def __init__(self, options: O) -> None:
        self.options = options

    @abstractmethod
    def measure(self, predict: Predict, data: DataSource, split: str, services: Services) -> dict[str, float]:
        """Values by name, the metric's own and `n`, the number of items judged, among them; a `Measurement` where items can say
        what each of them adds, so that the value gets an interval. Where labels are hidden, say what stands in for them. Raise
        DataError for a split that has nothing to judge: the metric is then left out, unless it is the objective."""
