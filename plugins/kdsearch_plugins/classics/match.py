"""Matching the teacher's outputs: regression of what it answers, for outputs that are no logits of one class.

mse and huber are of the answers themselves, as Ba and Caruana regress logits (Do Deep Nets Really Need to be Deep?, NIPS 2014,
arXiv 1312.6184); Huber's loss grows linearly from `delta` on, so that a teacher's outliers count less. cosine is 1 - cos of the
answers' directions, for embeddings; where the teacher's have another width, of a linear map of the student's, which is trained
along and never exported. binary_kl is KL(Bernoulli(sigmoid(z_t / T)) || Bernoulli(sigmoid(z_s / T))) of each label by
itself, as in multi-label distillation (Yang et al., Multi-Label Knowledge Distillation, ICCV 2023, arXiv 2308.06453), times T^2
as in Hinton et al.

Ours: mse and huber are of differences in standard deviations of the teacher's answers, as seen so far, each component by itself,
so that targets of different units weigh the same and `delta` means the same everywhere; means over components, not sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from kdsearch.errors import TapShapeError, nearest, one_of
from kdsearch.kinds import Distiller, Options, Step, TapShapes, searched
from kdsearch.ops.softened import full


class MatchOptions(Options):
    distance: Literal["mse", "huber", "cosine", "binary_kl"] = Field(
        "mse", description="mse or huber of values, cosine of embeddings, binary_kl of scores that are yes or no each"
    )
    field: str | None = Field(None, description="output to match; null = the task's, where it has one")
    delta: Annotated[float, searched(low=0.1, high=3.0, log=True)] = Field(
        1.0, gt=0, description="huber: the difference, in deviations, from which it grows linearly"
    )
    temperature: Annotated[float, searched(low=1.0, high=10.0, log=True)] = Field(
        1.0, gt=0, description="binary_kl: T, above 1 the teacher's doubt counts more"
    )


class Match(Distiller[MatchOptions]):
    """Term `match`, a mean over samples and components >= 0."""

    paper_weights: ClassVar[Mapping[str, float]] = {"match": 1.0}
    count: Tensor
    mean: Tensor
    variance: Tensor

    def build(self, shapes: TapShapes) -> None:
        """Raise TapShapeError for an output that is not there, several of which none is named, or unequal shapes.

        Of embeddings the widths alone may differ.
        """
        outputs, asked = shapes.student.fields, self.options.field
        if asked is None and len(outputs) > 1:
            raise TapShapeError(f"'match' names no output, and the task has {', '.join(outputs)}", expected="`field`")
        self.field = asked if asked is not None else next(iter(outputs))
        if self.field not in outputs:
            raise TapShapeError(
                f"'match': the task has no output '{asked}'",
                nearest=nearest(self.field, outputs),
                expected=one_of(outputs),
            )
        shape_s, shape_t = tuple(shapes.student.of(self.field)), tuple(shapes.teacher.of(self.field))
        self.widen: nn.Module = nn.Identity()
        d_s, d_t = (each[_components(each)] if each else None for each in (shape_s, shape_t))
        if self.options.distance == "cosine" and shape_s[:-1] == shape_t[:-1] and d_s != d_t and d_s and d_t:
            self.widen = nn.Linear(d_s, d_t, bias=False)
        elif shape_s != shape_t:
            raise TapShapeError(
                f"'match': the student's '{self.field}' is {shape_s}", expected=f"the teacher's {shape_t}"
            )
        size = (shape_s[_components(shape_s)],) if shape_s else (1,)
        self.register_buffer("count", torch.zeros(()))
        for name in ("mean", "variance"):  # of the teacher's answers so far
            self.register_buffer(name, torch.zeros(size[0] or 1))

    def terms(self, step: Step) -> dict[str, Tensor]:
        z_s, z_t = self._rows(step, step.student[self.field]), self._rows(step, step.teacher[self.field])  # (N, D)
        o = self.options
        if o.distance == "cosine":
            each = 1 - F.cosine_similarity(full(self.widen(z_s)), full(z_t), dim=1)
        elif o.distance == "binary_kl":
            each = binary_kl(full(z_s) / o.temperature, full(z_t) / o.temperature) * o.temperature**2
        else:
            far = (z_s - z_t) / self.spread(z_t)
            zero = torch.zeros_like(far)
            each = far.square() if o.distance == "mse" else F.huber_loss(far, zero, reduction="none", delta=o.delta)
        return {"match": each.sum() / max(each.numel(), 1)}

    def _rows(self, step: Step, answer: Tensor) -> Tensor:
        """(N, D): a row for each position that counts."""
        return step.rows(answer, self.field) if answer.ndim > 2 else answer.reshape(len(answer), -1)

    def spread(self, z_t: Tensor) -> Tensor:
        """(D,) the standard deviation of the teacher's answers so far, this batch's before the first; 1 of a constant."""
        if not self.count > 0 and len(z_t) < 2:
            return torch.ones_like(z_t[:1].sum(0))
        mean, variance = (self.mean, self.variance) if self.count > 0 else _moments(z_t)
        of_rounding = (1e-7 * mean).square().clamp(min=1e-38)
        return torch.where(variance > of_rounding, variance, 1.0).sqrt().to(z_t)

    def on_step_end(self, step: Step) -> None:
        """Chan, Golub and LeVeque (1983), eq. 2.1: no large squares are subtracted, so that float32 does, far from 0 too."""
        if self.options.distance in ("mse", "huber"):
            rows = step.gather(self._rows(step, step.teacher[self.field])).to(self.mean)
            if not len(rows):
                return
            far, variance = _moments(rows - self.mean if self.count > 0 else rows)
            n = self.count + len(rows)
            share = len(rows) / n
            if self.count > 0:
                self.variance += share * (variance - self.variance + (1 - share) * far.square())
                self.mean += share * far
            else:
                self.mean.copy_(far)
                self.variance.copy_(variance)
            self.count.copy_(n)


def _moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(D,) mean and variance, by differences from the first of N >= 1 rows."""
    far = rows - rows[0]
    return rows[0] + far.mean(0), far.var(0, unbiased=False)


def binary_kl(z_s: Tensor, z_t: Tensor) -> Tensor:
    """KL of two Bernoulli distributions, elementwise, from their logits."""
    p = z_t.sigmoid()
    return p * (F.logsigmoid(z_t) - F.logsigmoid(z_s)) + (1 - p) * (F.logsigmoid(-z_t) - F.logsigmoid(-z_s))


def _components(shape: tuple[int | None, ...]) -> int:
    """Which axis of a sample's answer has the components: the first one of a map (D, H, W), else the last."""
    return 0 if len(shape) == 3 else -1
