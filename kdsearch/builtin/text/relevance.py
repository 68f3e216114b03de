"""Distiller `relevance`: of a batch's documents a query prefers those that it prefers for the teacher.

In-batch distillation of Lin, Yang and Lin (TCT-ColBERT, 2020, arXiv 2010.11386, eq. 5), with cosines, from queries to documents and
from documents to queries. Ours: a sample that is not known to be a pair is two texts, which are compared with those of the other
samples alone. That they lie in one sample says nothing, and what they are to each other is not asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from kdsearch.builtin.text.source import EMBEDDING, is_pair
from kdsearch.errors import TapShapeError
from kdsearch.kinds import Distiller, Options, Step, TapShapes, TeacherTap, searched
from kdsearch.ops.softened import full

UNSEEN = -1e4  # finite: one sample alone that is no pair has nothing to be compared with


class RelevanceOptions(Options):
    temperature: Annotated[float, searched(low=0.02, high=0.5, log=True)] = Field(
        0.05, gt=0, description="that cosines are divided by, the teacher's and the student's"
    )
    teacher_output: TeacherTap = Field(
        EMBEDDING, description="the teacher's output (2, D_t): a query's vector, then its document's"
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
        seen = ~torch.diag(~is_pair(step.batch))  # (B, B)
        scores_s = self._scores(step.student[EMBEDDING])
        scores_t = self._scores(step.teacher[self.options.teacher_output])
        return {"kl": (_kl(scores_t, scores_s, seen) + _kl(scores_t.T, scores_s.T, seen)) / 2}

    def _scores(self, pairs: Tensor) -> Tensor:
        query, document = F.normalize(pairs.float(), dim=-1).unbind(1)
        return query @ document.T / self.options.temperature


def _kl(scores_t: Tensor, scores_s: Tensor, seen: Tensor) -> Tensor:
    log_p_t, log_p_s = (full(each).masked_fill(~seen, UNSEEN).log_softmax(1) for each in (scores_t, scores_s))
    return torch.sum(log_p_t.exp() * (log_p_t - log_p_s)) / len(scores_t)
