"""Scores of the weights alone: the baselines that every training-free score is shown against."""

from __future__ import annotations

import math

import torch

from kdsearch.kinds import Model, NoOptions, Probe, Proxy
from kdsearch.ops.cost import multiply_accumulates, parameters
from kdsearch.ops.weights import weight_matrices
from kdsearch_plugins.zero_cost.loss import finite


class Params(Proxy[NoOptions]):
    """ln of the number of weights; -inf for a model without any."""

    needs_data = False

    def score(self, student: Model, probe: Probe) -> float:
        cost = student.cost()
        return log_count(cost.params if cost else parameters(student.module))


class Macs(Proxy[NoOptions]):
    """ln of multiply-accumulates for one sample; -inf for a model without any. Counted on the meta device where no formula is.

    As `complexity` it is a term of AZ-NAS (Lee and Ham, CVPR 2024, arXiv 2403.19232), which counts FLOPs: the same rank.
    """

    needs_data = False

    def score(self, student: Model, probe: Probe) -> float:
        cost = student.cost()
        return log_count(cost.macs if cost else counted_macs(student, probe))


class Layers(Proxy[NoOptions]):
    """Number of weight matrices and filters; one that a network uses twice counts once, a recurrent layer has two a direction."""

    needs_data = False

    def score(self, student: Model, probe: Probe) -> float:
        return float(len(weight_matrices(student.module)))


class L2Norm(Proxy[NoOptions]):
    """Sum over layers of ||W||_2 (Abdelfattah et al., ICLR 2021, arXiv 2101.08134)."""

    needs_data = False

    def score(self, student: Model, probe: Probe) -> float:
        with torch.no_grad():
            norms = [torch.linalg.vector_norm(w, dtype=torch.float64) for w in weight_matrices(student.module).values()]
        return finite(sum(map(float, norms)))


def counted_macs(student: Model, probe: Probe) -> int:
    sample = probe.task.dummy(probe.io, 1, torch.Generator().manual_seed(0))
    return multiply_accumulates(student.module, [sample[name] for name in student.inputs])


def log_count(count: int) -> float:
    return math.log(count) if count > 0 else -math.inf
