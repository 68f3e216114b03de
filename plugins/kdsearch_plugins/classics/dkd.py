"""Decoupled knowledge distillation (Zhao et al., CVPR 2022, arXiv 2203.08679): L = alpha TCKD + beta NCKD (eq. 7).

TCKD: KL between (p_target, 1 - p_target) of teacher and student; NCKD: KL between their softmaxes over the other classes.
KD is the special case alpha = 1, beta = 1 - p_target of the teacher. Ours: non-target classes are left out exactly (the released
code subtracts 1000 from the target's logit), and there is no warm-up of the weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from kdsearch.kinds import Distiller, Options, Step, TapShapes, searched
from kdsearch.ops.softened import divergence, likely, log_softened
from kdsearch_plugins.classics.cifar import CIFAR
from kdsearch_plugins.classics.of_classes import require_logits


class DkdOptions(Options):
    alpha: float = Field(
        1.0,
        ge=0,
        description="weight of `tckd` with `normalize: false`; else `weights: {tckd: ..}` says it",
    )
    beta: float = Field(
        8.0,
        ge=0,
        description="weight of `nckd`, likewise; the paper uses 1 to 10, more for a teacher that is far ahead",
    )
    temperature: Annotated[float, searched(low=1.0, high=20.0, log=True)] = Field(4.0, gt=0, description="T of both")


class Dkd(Distiller[DkdOptions]):
    """Terms `tckd` and `nckd`, each times T^2. Target where nobody knows the class: the teacher's likeliest class.

    alpha and beta are the paper's constants. A recipe that normalises reads none, so they declare no search range: the terms'
    weights in the recipe take their place.
    """

    paper_recipe: ClassVar[Mapping[str, Any]] = {"train": CIFAR}

    def constants(self) -> Mapping[str, float]:
        return {"tckd": self.options.alpha, "nckd": self.options.beta}

    def build(self, shapes: TapShapes) -> None:
        """Raise TapShapeError for a task without logits of classes, naming what fits it."""
        require_logits("dkd", shapes)

    def terms(self, step: Step) -> dict[str, Tensor]:
        o = self.options
        z_s, z_t = step.rows(step.student["logits"]), step.rows(step.teacher["logits"])  # (N, K)
        target = likely(step.truth(), z_t)
        is_target = F.one_hot(target, z_t.shape[1]).bool()
        log_s, log_t = log_softened(z_s, o.temperature), log_softened(z_t, o.temperature)
        (b_s, rest_s), (b_t, rest_t) = split(log_s, is_target), split(log_t, is_target)
        tckd, nckd = divergence(b_s, b_t), divergence(rest_s, rest_t)
        return {"tckd": o.temperature**2 * tckd, "nckd": o.temperature**2 * nckd}


def split(log_p: Tensor, is_target: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities (N, K) -> those of (target, rest) as (N, 2), and those among the rest as (N, K - 1)."""
    others = log_p[~is_target].view(len(log_p), log_p.shape[1] - 1)
    log_rest = others.logsumexp(1, keepdim=True)
    return torch.cat([log_p[is_target][:, None], log_rest], 1), others - log_rest
