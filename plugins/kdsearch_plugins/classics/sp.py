"""Similarity-preserving distillation (Tung and Mori, ICCV 2019, arXiv 1907.09682): L = 1/B^2 || G_t - G_s ||_F^2 (eq. 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from kdsearch.kinds import Distiller, Options, Step, StudentTap, TeacherTap
from kdsearch.ops.relation import relation_loss
from kdsearch_plugins.classics.cifar import CIFAR


class SpOptions(Options):
    teacher_tap: TeacherTap = Field("stage[-1]", description="tensor whose relations between samples are kept")
    student_tap: StudentTap = Field("stage[-1]", description="tensor that keeps them; any shape")


class Sp(Distiller[SpOptions]):
    """Term `similarity` in [0, 4/B]: small at large B, which is why the paper's weight is 3000 (gamma at B = 128)."""

    paper_weights: ClassVar[Mapping[str, float]] = {"similarity": 3000.0}
    paper_recipe: ClassVar[Mapping[str, Any]] = {"train": CIFAR}

    def terms(self, step: Step) -> dict[str, Tensor]:
        a_s, a_t = step.student[self.options.student_tap], step.teacher[self.options.teacher_tap]
        return {"similarity": relation_loss(a_s, a_t)}
