"""ZiCo: the inverse coefficient of variation of gradients (Li et al., ICLR 2023, arXiv 2301.11300)."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from kdsearch.kinds import Model, Options, Probe, Proxy, searched
from kdsearch.ops.weights import differentiable, gradients
from kdsearch_plugins.zero_cost.loss import batch_loss, finite, labelled


class ZicoOptions(Options):
    batches: Annotated[int, searched(2, 4)] = Field(
        2, ge=2, le=64, description="parts of the probe's batch whose gradients are compared"
    )


class Zico(Proxy[ZicoOptions]):
    """sum_l ln sum_w mean_i |g_i| / std_i g_i over the parts i of the batch (eq. 18); weights with std 0 are left out.

    Layers where nothing varies count nothing; -inf where that is all of them.
    """

    def score(self, student: Model, probe: Probe) -> float:
        parts = torch.arange(len(probe.batch)).chunk(self.options.batches)
        batch = labelled(probe)
        with differentiable(student.module) as leaves:
            found = [gradients(batch_loss(student, probe, batch.rows(part)), leaves) for part in parts]
        layers = [inverse_variation([each[path] for each in found]) for path in leaves]
        if not any(layers):
            return -math.inf
        return finite(sum(math.log(each) for each in layers if each != 0))


def inverse_variation(g: list[Tensor]) -> float:
    """sum_w mean |g| / std g, over the weights whose gradient varies; std of the population, as numpy's."""
    stacked = torch.stack(g)
    mean, std = stacked.abs().mean(0), stacked.std(0, correction=0)
    return float((mean / std)[std != 0].sum(dtype=torch.float64))
