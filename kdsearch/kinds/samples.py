"""Samples with what was answered to them: what a plugin's section of the report may look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from kdsearch.kinds.data import Batch


@dataclass(frozen=True)
class Samples:
    """The first samples of the test split.

    Args:
        batch: as the data set gives them, targets too.
        answers: who answers -> output field -> (B, ...). `student` is the network that ships, as torch runs it; where several ship
            by themselves each has its role's name. Of teachers those that answer the task, by name, the first also as `teacher`.
    """

    batch: Batch
    answers: Mapping[str, Mapping[str, Tensor]]
