"""Distiller `relevance`: of a batch's documents a query prefers those that it prefers for the teacher.

In-batch distillation of Lin, Yang and Lin (TCT-ColBERT, 2020, arXiv 2010.11386, eq. 5), with cosines, from queries to documents and
from documents to queries.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from kdsearch.errors import TapShapeError
from kdsearch.kinds import Distiller, Options, Step, TapShapes, TeacherTap, searched

OUTPUT = "embedding"


class RelevanceOptions(Options):
    temperature: Annotated[float, searched(low=0.02, high=0.5, log=True)] = Field(
        0.05, gt=0, description="that cosines are divided by, the teacher's and the student's"
    )
    teacher_output: TeacherTap = Field(
        OUTPUT, description="the teacher's output (2, D_t): a query's vector, then its document's"
    )


class Relevance(Distiller[RelevanceOptions]):
    """Term `kl` >= 0, in nats, mean over queries and documents. Widths of teacher and student may differ."""

    paper_weights: ClassVar[Mapping[str, float]] = {"kl": 1.0}

    def build(self, shapes: TapShapes) -> None:
        """Raise TapShapeError unless the teacher answers a pair of vectors a sample."""
        shape = shapes.teacher.of(self.options.teacher_output)
        if len(shape) != 2 or shape[0] != 2:
            raise TapShapeError(
                f"the teacher's '{self.options.teacher_output}' is {shape}", expected="(2, D): query, document"
            )

    def terms(self, step: Step) -> dict[str, Tensor]:
        scores_s = self._scores(step.student[OUTPUT])  # (B, B)
        scores_t = self._scores(step.teacher[self.options.teacher_output])
        return {"kl": (_kl(scores_t, scores_s) + _kl(scores_t.T, scores_s.T)) / 2}

    def _scores(self, pairs: Tensor) -> Tensor:
        query, document = F.normalize(pairs.float(), dim=-1).unbind(1)
        return query @ document.T / self.options.temperature


def _kl(scores_t: Tensor, scores_s: Tensor) -> Tensor:
    log_p_t, log_p_s = scores_t.log_softmax(1), scores_s.log_softmax(1)
    return torch.sum(log_p_t.exp() * (log_p_t - log_p_s)) / len(scores_t)
