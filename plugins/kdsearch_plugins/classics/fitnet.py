"""FitNets (Romero et al., ICLR 2015, arXiv 1412.6550): L = 1/2 || H_T - r(H_S) ||^2 (eq. 3); r is trained.

Ours: mean over elements instead of a sum, H_S resized to H_T where they differ, and hint and task are trained together
(the paper trains the hint first, alone).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from kdsearch.kinds import Distiller, Options, Step, StudentTap, TapShapes, TeacherTap, searched


class FitNetOptions(Options):
    teacher_tap: TeacherTap = Field("stage[-2]", description="map to imitate, H_T")
    student_tap: StudentTap = Field("stage[-2]", description="map that imitates, H_S")
    kernel: Annotated[Literal[1, 3], searched(1, 3)] = Field(1, description="kernel of r, in pixels of H_S")


class FitNet(Distiller[FitNetOptions]):
    """Term `hint`. The engine trains and checkpoints `regressor` and never exports it."""

    paper_weights: ClassVar[Mapping[str, float]] = {"hint": 1.0}

    def build(self, shapes: TapShapes) -> None:
        """Raise TapShapeError, naming tap and shape, unless both taps are (C, H, W) maps."""
        c_t, c_s = shapes.teacher.map(self.options.teacher_tap)[0], shapes.student.map(self.options.student_tap)[0]
        self.regressor = nn.Conv2d(c_s, c_t, self.options.kernel, padding=self.options.kernel // 2)

    def terms(self, step: Step) -> dict[str, Tensor]:
        """Unweighted scalar >= 0 in squared units of the teacher's activations; the teacher gets no gradient."""
        h_t = step.teacher[self.options.teacher_tap]  # (B, C_t, H_t, W_t), constant
        h_s = self.regressor(step.student[self.options.student_tap])  # (B, C_t, H_s, W_s)
        if h_s.shape != h_t.shape:
            h_s = F.interpolate(h_s, h_t.shape[-2:], mode="bilinear", align_corners=False)
        return {"hint": 0.5 * F.mse_loss(h_s, h_t)}
