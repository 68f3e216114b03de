"""DisWOT's two similarities of a random student and a random teacher on one batch (arXiv 2303.15678, section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from kdsearch.errors import TapError, TapShapeError
from kdsearch.kinds import HIDDEN, Batch, Model, Outputs, Probe
from kdsearch.ops.relation import channel_relation, relation_matrix
from kdsearch.ops.semantic import classifier_gradient, semantic_similarity

MAP, VECTOR, LOGITS = "stage[-1]", "penultimate", "logits"


def teacher_of(probe: Probe) -> tuple[Model, Outputs]:
    model, out = probe.teacher_model, probe.teacher
    if model is None or out is None:
        raise ValueError("diswot scores a student against a teacher, and this probe has none")
    return model, out


def relation_score(student: Model, probe: Probe, taps: Sequence[str]) -> float:
    """M_r = -1/B^2 || R_t - R_s ||_F^2, summed over `taps`; <= 0, in float64. -inf: features that are not finite."""
    out, total = probe.run(student), 0.0
    for tap in taps:
        f_s = out[tap].double()
        if not torch.isfinite(f_s).all():
            return -math.inf
        r_t = probe.once(f"diswot.relation:{tap}", lambda tap=tap: relation_matrix(teacher_of(probe)[1][tap].double()))  # type: ignore[misc]
        total -= float((relation_matrix(f_s) - r_t).square().sum()) / len(f_s) ** 2
    return total


def semantic_score(student: Model, probe: Probe) -> float:
    """M_s in [-4, 0], in float64. -inf: features or logits that are not finite. Raise TapShapeError where widths differ."""
    g_t = probe.once("diswot.gradient", lambda: gradient(teacher_of(probe)[1], probe.batch))
    g_s = gradient(probe.run(student), probe.batch)
    if g_s.shape != g_t.shape:
        raise TapShapeError(
            f"M_s is undefined: '{student.name}' is {g_s.shape[1]} wide at '{VECTOR}' with {g_s.shape[0]} classes, "
            f"the teacher {g_t.shape[1]} with {g_t.shape[0]}",
            expected="equal widths before the classifier",
            fix="Use 'diswot_mr', or 'diswot', which is then M_r alone.",
        )
    return float(semantic_similarity(g_s, g_t)) if torch.isfinite(g_s).all() else -math.inf


def cam_score(student: Model, probe: Probe) -> float:
    """-1/(B K) sum_b || E(m_s)_b - E(m_t)_b ||_F^2 in [-4, 0]: how the classes' activation maps go together, in float64.

    m_kb = sum_c w_kc A_cb, which is Grad-CAM's map of class k where a pooled vector enters a linear classifier, without its
    rectifier; E_b is the Gram matrix of the K maps with rows of length 1. Any widths and places. -inf: maps that are not finite.
    Raise TapError where a network has no such map.
    """
    e_t = probe.once("diswot.cam", lambda: channel_relation(activation_maps(*teacher_of(probe))))
    maps = activation_maps(student, probe.run(student))
    if not torch.isfinite(maps).all():
        return -math.inf
    e_s = channel_relation(maps)
    return -float((e_s - e_t).square().sum()) / (e_s.shape[0] * e_s.shape[1])


SEMANTIC: dict[str, Callable[[Model, Probe], float]] = {"fc_grad": semantic_score, "cam_map": cam_score}


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


def activation_maps(model: Model, out: Outputs) -> Tensor:
    """(B, K, H, W). Raise TapError where the last map and the classifier do not belong together."""
    weight = classifier_weight(model, out[LOGITS].shape[-1])
    activation_shape(model)
    return torch.einsum("kc,bchw->bkhw", weight, out[MAP].double())


def activation_shape(model: Model) -> None:
    """Raise TapError unless the last stage is a map of the channels that a linear classifier reads."""
    tap, weight = model.tap(MAP), classifier_weight(model)
    if tap.kind != "map" or tap.shape[0] != weight.shape[1]:
        raise TapShapeError(
            f"tap '{MAP}' of '{model.name}' is {'x'.join(str(size) for size in tap.shape)}",
            expected=f"a map of the {weight.shape[1]} channels that its classifier reads",
            fix="Use 'semantic: fc_grad'.",
        )


def classifier_weight(model: Model, classes: int | None = None) -> Tensor:
    """(K, C), of any K without `classes`: of the part behind the tap `logits`, else of the last linear layer.

    Raise TapError where there is none.
    """
    at = [model.module.get_submodule(tap.path) for tap in model.taps if tap.name == LOGITS]
    parts = at or [part for part in model.module.modules() if isinstance(part, nn.Linear)]
    last = parts[-1] if parts else None
    if not isinstance(last, nn.Linear) or classes not in (None, last.out_features):
        raise TapError(
            f"'{model.name}' has no linear classifier{f' of {classes} classes' if classes else ''}",
            expected="a tap 'logits' at a linear layer",
            fix="Use 'semantic: fc_grad'.",
        )
    return last.weight.detach().double()
