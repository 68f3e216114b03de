"""Proxy `relation`: how near an untrained student's relations between samples are to the teacher's, at every stage.

DisWOT's M_r (Dong et al., CVPR 2023, arXiv 2303.15678, eq. 7) compares the last stage's similarity matrices. Here all stages
count, and beside the matrix with rows of length 1, which sees how large a sample's features are, the cosines, which do not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from kdsearch.errors import TapError
from kdsearch.kinds import Batch, Model, NoOptions, Probe, Proxy, Tap, Task
from kdsearch.kinds.proxy import Taps
from kdsearch.ops.record import passing
from kdsearch.ops.relation import cosines, gram, normalised_rows, scale_of
from kdsearch.ops.undisturbed import undisturbed

Relations = tuple[Tensor, Tensor]

COSINES = 4.0  # their weight: 1, 4 and 16 rank cells of NAS-Bench-201 alike, ResNets by .90, .91, .91 beside params


class Relation(Proxy[NoOptions]):
    """-mean over the student's stages k of ||R_k - R'_k||_F^2 / B + 4 ||C_k - C'_k||_F^2 / B^2, in [-20, 0].

    R = the Gram matrix of the B samples with rows of length 1, C = their cosines, both (B, B), of the flattened features; R', C' =
    the same of the teacher's stage at the same share of its depth. Student and teacher as the search space builds them, in train
    mode; one forward pass. Widths and numbers of stages may differ.
    """

    needs_teacher = True

    def taps(self) -> Taps:
        return {"teacher": ("stage[-1]",)}  # that it has stages; they are read by a pass of its own

    def score(self, student: Model, probe: Probe) -> float:
        """-inf where a feature is not finite. Raise TapError for a student or teacher without stages."""
        teacher = probe.teacher_model
        assert teacher is not None
        theirs = probe.once("relation", lambda: relations_of(teacher, probe.task, probe.fed(probe.batch)))
        own = probe.shared(student, "relation", lambda: relations_of(student, probe.task, probe.batch))
        apart = [distance(each, theirs[counterpart(k, len(own), len(theirs))]) for k, each in enumerate(own)]
        score = -sum(apart) / len(apart)
        return score if math.isfinite(score) else -math.inf


def distance(own: Relations, theirs: Relations) -> float:
    """||R - R'||_F^2 / B + 4 ||C - C'||_F^2 / B^2."""
    n = len(own[0])
    return float((own[0] - theirs[0]).square().sum() / n + COSINES * (own[1] - theirs[1]).square().mean())


def counterpart(k: int, n: int, m: int) -> int:
    """Of stage k of n: the stage of m at the same share of the depth, the last for the last."""
    return -(-(k + 1) * m // n) - 1


def relations_of(model: Model, task: Task[Any], batch: Batch) -> list[Relations]:
    """(R, C) of each stage, from input to output."""
    stages = stages_of(model)
    found: dict[str, Relations] = {}

    def keep(path: str, given: Tensor) -> None:
        for tap in stages:
            if tap.path == path:
                found[tap.name] = relations(tap.read(given))

    with (
        undisturbed(model.module),
        passing(model.module, sorted({tap.path for tap in stages if tap.side == "input"}), keep, "input"),
        passing(model.module, sorted({tap.path for tap in stages if tap.side == "output"}), keep),
    ):
        task.call(model, batch)
    return [found[tap.name] for tap in stages]


def stages_of(model: Model) -> Sequence[Tap]:
    stages = [tap for tap in model.taps if tap.name.startswith("stage[")]
    if not stages:
        raise TapError(
            f"'{model.name}' has no stage, but {model.describe_taps()}", expected="a tap stage[0], and further ones"
        )
    return stages


def relations(features: Tensor) -> Relations:
    """(R, C) of features (B, ...); rows of a sample whose features are all 0 are 0."""
    similar = gram(features.float() / scale_of(features)).double()
    return normalised_rows(similar), cosines(similar)
