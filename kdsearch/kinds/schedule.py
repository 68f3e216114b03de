"""Schedule: the learning rate as a function of progress, so that a training that was stopped goes on where it was."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """A factor on lr at progress p in [0, 1). With T steps and p = t / T it is what torch.optim.lr_scheduler gives at step t.

    Args:
        kind: `constant`; `cosine` to `end` (CosineAnnealingLR); `linear` to `end` (LinearLR); `polynomial` to `end`, by (1 - p)
            to the power of `power` (PolynomialLR); `step`, times `factor` at each of `at` (MultiStepLR); `cyclic`, from `low` to
            1 and back, `cycles` times (CyclicLR, triangular).
        warmup: share over which it first rises from `start` to 1 in a line; what follows runs over the rest (SequentialLR).
    """

    kind: Literal["constant", "cosine", "linear", "polynomial", "step", "cyclic"] = "cosine"
    end: float = 0.0
    power: float = 1.0
    at: Sequence[float] = (0.5, 0.75)
    factor: float = 0.1
    cycles: int = 4
    low: float = 0.1
    warmup: float = 0.0
    start: float = 0.01

    def __call__(self, progress: float) -> float:
        if progress < self.warmup:
            return self.start + (1 - self.start) * progress / self.warmup
        return self._after((progress - self.warmup) / (1 - self.warmup))

    def _after(self, p: float) -> float:
        if self.kind == "constant":
            return 1.0
        if self.kind == "step":
            return self.factor ** sum(p >= each for each in self.at)
        if self.kind == "cyclic":
            return self.low + (1 - self.low) * (1 - abs(2 * (p * self.cycles % 1) - 1))
        if self.kind == "cosine":
            left = 0.5 * (1 + math.cos(math.pi * p))
        else:
            left = (1 - p) ** (self.power if self.kind == "polynomial" else 1.0)
        return self.end + (1 - self.end) * left
