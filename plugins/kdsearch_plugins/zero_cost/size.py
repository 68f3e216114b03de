"""Size as a score: the baselines that every training-free score is shown against."""

from __future__ import annotations

import math
from typing import Any

import torch

from kdsearch.kinds import Model, NoOptions, Probe, Proxy
from kdsearch.ops.cost import multiply_accumulates, parameters


class Params(Proxy[NoOptions]):
    """ln of the number of weights; -inf for a model without any."""

    needs_data = False

    def score(self, student: Model, probe: Probe) -> float:
        cost = student.cost()
        return log_count(cost.params if cost else parameters(student.module))


class Macs(Proxy[NoOptions]):
    """ln of multiply-accumulates for one sample; -inf for a model without any. Counted on the meta device where no formula is."""

    needs_data = False

    def score(self, student: Model, probe: Probe) -> float:
        cost = student.cost()
        return log_count(cost.macs if cost else counted_macs(student, probe))


def counted_macs(student: Model, probe: Probe) -> int:
    sample = probe.task.dummy(probe.io, 1, torch.Generator().manual_seed(0)).to(torch.device("meta"))

    def call(module: torch.nn.Module) -> Any:
        return module(*[sample[name] for name in student.inputs])

    return multiply_accumulates(student.module, call)


def log_count(count: int) -> float:
    return math.log(count) if count > 0 else -math.inf
