"""DisWOT's similarities minimised in training ("DisWOT+", arXiv 2303.15678, section 3.4).

relation = 1/B^2 || R_t - R_s ||_F^2 over samples; semantic = 1/(B C) sum_b || E_t - E_s ||_F^2 over channels, after Liu et al.,
ICCV 2021 (arXiv 2202.03680). No script of the "+" rows is released: 3000 is the field's weight of the first term, that of
the second is reconstructed (search 0.1 to 10).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from kdsearch.errors import TapShapeError
from kdsearch.kinds import Distiller, Options, Step, StudentTap, TapShapes, TeacherTap
from kdsearch.ops.relation import channel_loss, relation_loss


class DiswotLossOptions(Options):
    teacher_tap: TeacherTap = Field("stage[-1]", description="map whose relations are kept")
    student_tap: StudentTap = Field("stage[-1]", description="map that keeps them")
    project: bool = Field(
        True, description="where the channels differ, train a 1x1 projection of the student's map; false = refuse"
    )


class DiswotLoss(Distiller[DiswotLossOptions]):
    """Terms `relation` and `semantic`. The projection serves `semantic` alone; the engine trains it and never exports it."""

    paper_weights: ClassVar[Mapping[str, float]] = {"relation": 3000.0, "semantic": 1.0}

    def build(self, shapes: TapShapes) -> None:
        """Raise TapShapeError unless both taps are (C, H, W) maps, or where C differs and `project` is off."""
        o = self.options
        c_t, c_s = shapes.teacher.map(o.teacher_tap)[0], shapes.student.map(o.student_tap)[0]
        if c_t != c_s and not o.project:
            raise TapShapeError(
                f"student tap '{o.student_tap}' of '{shapes.student.model.name}' has {c_s} channels, "
                f"teacher tap '{o.teacher_tap}' of '{shapes.teacher.model.name}' has {c_t}",
                expected="equal channels",
                fix="Set project: true, or choose other taps.",
            )
        self.projector = nn.Identity() if c_t == c_s else nn.Conv2d(c_s, c_t, 1, bias=False)

    def terms(self, step: Step) -> dict[str, Tensor]:
        f_s, f_t = step.student[self.options.student_tap], step.teacher[self.options.teacher_tap]
        return {"relation": relation_loss(f_s, f_t), "semantic": channel_loss(self.projector(f_s), f_t)}
