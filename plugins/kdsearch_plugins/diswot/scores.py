"""DisWOT's two similarities of a random student and a random teacher on one batch (arXiv 2303.15678, section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kdsearch.errors import TapShapeError
from kdsearch.kinds import HIDDEN, Batch, Model, Outputs, Probe
from kdsearch.ops.relation import relation_matrix
from kdsearch.ops.semantic import classifier_gradient, semantic_similarity

VECTOR, LOGITS = "penultimate", "logits"


def teacher_of(probe: Probe) -> Outputs:
    teacher = probe.teacher
    if teacher is None:
        raise ValueError("diswot scores a student against a teacher, and this probe has none")
    return teacher


def relation_score(student: Model, probe: Probe, taps: Sequence[str]) -> float:
    """M_r = -1/B^2 || R_t - R_s ||_F^2, summed over `taps`; <= 0, in float64. -inf: features that are not finite."""
    out, total = probe.run(student), 0.0
    for tap in taps:
        f_s = out[tap].double()
        if not torch.isfinite(f_s).all():
            return -math.inf
        r_t = probe.once(f"diswot.relation:{tap}", lambda tap=tap: relation_matrix(teacher_of(probe)[tap].double()))  # type: ignore[misc]
        total -= float((relation_matrix(f_s) - r_t).square().sum()) / len(f_s) ** 2
    return total


def semantic_score(student: Model, probe: Probe) -> float:
    """M_s in [-4, 0], in float64. -inf: features or logits that are not finite. Raise TapShapeError where widths differ."""
    g_t = probe.once("diswot.gradient", lambda: gradient(teacher_of(probe), probe.batch))
    g_s = gradient(probe.run(student), probe.batch)
    if g_s.shape != g_t.shape:
        raise TapShapeError(
            f"M_s is undefined: '{student.name}' is {g_s.shape[1]} wide at '{VECTOR}' with {g_s.shape[0]} classes, "
            f"the teacher {g_t.shape[1]} with {g_t.shape[0]}",
            expected="equal widths before the classifier",
            fix="Use 'diswot_mr', or 'diswot', which is then M_r alone.",
        )
    return float(semantic_similarity(g_s, g_t)) if torch.isfinite(g_s).all() else -math.inf


def gradient(out: Outputs, batch: Batch) -> Tensor:
    """(K, C) gradient of the cross-entropy by the classifier's weight, over the samples whose label is known."""
    features, logits = out[VECTOR].double().flatten(1), out[LOGITS].double()
    target = labels(batch, logits)
    known = target != HIDDEN
    return classifier_gradient(features[known], logits[known], target[known])


def labels(batch: Batch, logits: Tensor) -> Tensor:
    """The batch's labels; the classes in turn where it knows none, as any fixed labels serve a random network."""
    if "label" in batch and bool((batch["label"] != HIDDEN).any()):
        return batch["label"]
    return torch.arange(len(logits), device=logits.device) % logits.shape[1]
