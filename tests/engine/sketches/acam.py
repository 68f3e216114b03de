"""Masks that are trained with the student (after ACAM-KD, ICCV 2025, arXiv 2503.06307)."""

import torch
from torch import nn

from kdsearch.builtin.distill import Distill, DistillOptions
from kdsearch.kinds import Distiller, Options, StudentTap, TeacherTap
from kdsearch.testing.training import training
from tests.engine.little import jitter, resnet, source


class AcamOptions(Options):
    teacher_tap: TeacherTap = "stage[-1]"
    student_tap: StudentTap = "stage[-1]"
    masks: int = 3


def masked(masks, squares):
    """Mean over B and M of sum_i M_i^2 e_i / sum_i M_i; masks (B, M, I), squares (B, I)."""
    return ((masks.square() * squares[:, None]).sum(-1) / masks.sum(-1)).mean()


def pairwise_dice(masks):
    """Mean over i != j of 2 <M_i, M_j> / (<M_i, M_i> + <M_j, M_j>); 0 for a single mask."""
    n = masks.shape[1]
    inner = masks @ masks.mT  # (B, M, M)
    own = inner.diagonal(dim1=1, dim2=2)
    dice = 2 * inner / (own[:, :, None] + own[:, None, :])
    return (dice.sum((1, 2)) - n).mean() / max(n * (n - 1), 1)


class Acam(Distiller[AcamOptions]):
    def build(self, shapes):
        o, c = self.options, shapes.teacher.map(self.options.teacher_tap)[0]
        self.align = nn.Conv2d(shapes.student.map(o.student_tap)[0], c, 1)
        self.w_q, self.w_k, self.w_v = (nn.Conv2d(c, n, 1) for n in (c // 2, c // 2, c))
        self.m_c, self.m_s = (nn.Parameter(0.02 * torch.randn(o.masks, n)) for n in (1, c))

    def masks(self, f_t, f_a):
        q, k, v = self.w_q(f_t).flatten(2), self.w_k(f_a).flatten(2), self.w_v(f_a).flatten(2)
        f = v @ (q.mT @ k / q.shape[1] ** 0.5).softmax(-1).mT  # (B, C, N)
        return (self.m_c * f.mean(-1)[:, None]).sigmoid(), (self.m_s @ f).sigmoid()

    def terms(self, step):
        f_t, f_a = step.teacher[self.options.teacher_tap], self.align(step.student[self.options.student_tap])
        m_c, m_s = self.masks(f_t, f_a)
        e2 = (f_t - f_a).flatten(2).square()
        return {
            "channel": masked(m_c, e2.mean(2)),
            "spatial": masked(m_s, e2.mean(1)),
            "diversity": pairwise_dice(m_c) + pairwise_dice(m_s),
        }


def make(folder, **given):
    return training(
        Distill(DistillOptions(ema=0.9, keep="best")), {"student": resnet(0, (3, 4))}, source(40, augment=jitter), folder,
        teachers={"teacher": resnet(1, (4, 6))}, distillers={"acam": Acam(AcamOptions())}, normalize=True, augment=True,
        weights={"acam.diversity": 0.1}, epochs=3, batch_size=12, optim={"lr": 0.02, "weight_decay": 0.01}, seed=1, **given,
    )  # fmt: skip


KILLS = {0: [("distill", 2), ("distill", 5), ("distill", 12)], 3: [("distill", 3), ("distill", 8)]}
