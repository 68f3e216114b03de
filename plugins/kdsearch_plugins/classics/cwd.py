"""Channel-wise distillation for dense prediction (Shu et al., ICCV 2021, arXiv 2011.13256): where each channel looks.

phi(y_c)_i = softmax over positions i of y_{c,i} / T (eq. 3); L = T^2 / C sum_c KL(phi(y^T_c) || phi(y^S_c))
(eq. 4). Ours: the student's map is resized to the teacher's where they differ, and the mean over samples is taken. The recipe is
that of the released code on Cityscapes: 40,000 steps of 8 crops, lr 0.01 (1 - t / T)^0.9.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from kdsearch.kinds import Distiller, Options, Step, StudentTap, TapShapes, TeacherTap, searched
from kdsearch.ops.softened import softened_kl


class CwdOptions(Options):
    teacher_tap: TeacherTap = Field("logits", description="map to imitate, y^T")
    student_tap: StudentTap = Field("logits", description="map that imitates, y^S")
    temperature: Annotated[float, searched(low=1.0, high=8.0, log=True)] = Field(
        4.0, gt=0, description="T: above 1 more positions of a channel count"
    )


class Cwd(Distiller[CwdOptions]):
    """Term `channels`, in nats times T^2. A 1x1 convolution, trained and never exported, where channels are not as many."""

    paper_weights: ClassVar[Mapping[str, float]] = {"channels": 3.0}  # of logits; the paper gives hidden maps 50
    paper_recipe: ClassVar[Mapping[str, Any]] = {
        "train": {
            "optimizer": "sgd",
            "lr": 0.01,
            "batch_size": 8,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "schedule": {"kind": "polynomial", "power": 0.9},
        }
    }

    def build(self, shapes: TapShapes) -> None:
        """Raise TapShapeError, naming tap and shape, unless both taps are (C, H, W) maps."""
        c_t, c_s = shapes.teacher.map(self.options.teacher_tap)[0], shapes.student.map(self.options.student_tap)[0]
        self.align = nn.Identity() if c_t == c_s else nn.Conv2d(c_s, c_t, 1)

    def terms(self, step: Step) -> dict[str, Tensor]:
        y_t = step.teacher[self.options.teacher_tap]  # (B, C, H, W), constant
        y_s = self.align(step.student[self.options.student_tap])
        if y_s.shape != y_t.shape:
            y_s = F.interpolate(y_s, y_t.shape[-2:], mode="bilinear", align_corners=False)
        return {
            "channels": softened_kl(
                y_s.flatten(2).flatten(0, 1), y_t.flatten(2).flatten(0, 1), self.options.temperature
            )
        }
