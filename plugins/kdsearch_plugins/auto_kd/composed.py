"""A loss as a design: where x transform x distance x weight, every choice a search dimension that counts only where it matters.

After Auto-KD (Li et al., Automated Knowledge Distillation via Monte Carlo Tree Search, ICCV 2023) and KD-Zero (Li et al., Evolving
Knowledge Distiller for Any Teacher-Student Pairs, NeurIPS 2023), whose code is not released: reconstructed, see the README. Their
tree search and evolution are the study's controllers here; the weight is the recipe's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from kdsearch.errors import TapShapeError
from kdsearch.kinds import Distiller, Options, Step, StudentTap, TapShapes, TeacherTap, searched
from kdsearch.ops.softened import full, likely
from kdsearch_plugins.auto_kd.distances import Distance, distance
from kdsearch_plugins.auto_kd.transforms import (
    Over,
    Part,
    Transform,
    as_rows,
    as_scores,
    parts,
    patches,
    scales,
    transformed,
)

MAPS = {"on": ("maps",)}
LOGITS = {"on": ("logits",)}


class ComposedOptions(Options):
    on: Annotated[Literal["maps", "logits"], searched("maps", "logits")] = Field("maps", description="what is compared")
    teacher_tap: TeacherTap = Field("stage[-1]", description="map of the teacher, where maps are compared")
    student_tap: StudentTap = Field("stage[-1]", description="map of the student, likewise")
    multi_scale: Annotated[bool, searched(False, True, when=MAPS)] = Field(
        False, description="of maps: mean over max-pooling by 2, 4 and 1"
    )
    local: Annotated[bool, searched(False, True, when=MAPS)] = Field(
        False, description="of maps: mean over 2x2, 4x4 and 1x1 patches"
    )
    transform: Annotated[Transform, searched("identity", "attention", "batch_gram", "channel_gram", when=MAPS)] = Field(
        "identity", description="of maps: themselves, spatial attention, relations between samples or channels"
    )
    part: Annotated[Part, searched("all", "transposed", "target", "non_target", when=LOGITS)] = Field(
        "all", description="of logits: all classes, samples within a class, the target against the rest, the rest"
    )
    distance: Annotated[Distance, searched("mse", "kl", "cosine", "pearson")] = Field(
        "mse", description="between rows of both; of logits on their softmax"
    )
    softmax: Annotated[Over, searched("space", "batch", when={**MAPS, "distance": ("kl",)})] = Field(
        "space", description="of maps under kl: over places (or a relation's row), or over samples"
    )
    temperature: Annotated[float, searched(low=1.0, high=20.0, log=True)] = Field(
        4.0, gt=0, description="T of every softmax: of logits, and of maps under kl"
    )


class Composed(Distiller[ComposedOptions]):
    """Term `maps` or `logits`. Several of them in a recipe, each with a `name`, make a loss of several branches.

    Where nobody knows the class the target is the teacher's likeliest one. Where the channels differ and the transform compares
    them, a 1x1 projection of the student's map is trained with it and never exported.
    """

    term_names: ClassVar[tuple[str, ...]] = ("maps", "logits")

    def taps(self) -> dict[str, list[str]]:
        return super().taps() if self.options.on == "maps" else {}

    def build(self, shapes: TapShapes) -> None:
        """Raise TapShapeError, naming tap and shape, unless both taps are (C, H, W) maps; logits of other numbers of classes.

        Of logits, too, for a design without a gradient: one class of two is left, or a correlation of two numbers that sum to 1.
        """
        o = self.options
        self.projector: nn.Module = nn.Identity()
        if o.on == "logits":
            z_s, z_t = shapes.student.of("logits"), shapes.teacher.of("logits")
            if z_s != z_t:
                raise TapShapeError(f"the student's logits are {z_s}, the teacher's {z_t}", expected="equal classes")
            n_classes = z_s[0 if len(z_s) == 3 else -1]
            n = (
                {"all": n_classes, "transposed": 0, "target": 2, "non_target": n_classes - 1}[o.part]
                if n_classes
                else 0
            )
            if n == 1 or (n == 2 and o.distance == "pearson"):
                raise TapShapeError(
                    f"'{o.distance}' of '{o.part}' compares {n} numbers of a sample, and has no gradient",
                    expected="another `part`" if n == 1 else "a `distance` other than pearson, or another `part`",
                )
            return
        c_s, c_t = shapes.student.map(o.student_tap)[0], shapes.teacher.map(o.teacher_tap)[0]
        if c_s != c_t and o.transform in ("identity", "channel_gram"):
            self.projector = nn.Conv2d(c_s, c_t, 1, bias=False)

    def terms(self, step: Step) -> dict[str, Tensor]:
        if self.options.on == "maps":
            return {"maps": self.of_maps(step)}
        return {"logits": self.of_logits(step)}

    def of_maps(self, step: Step) -> Tensor:
        """Mean over scales and patches."""
        o = self.options
        f_t = step.teacher[o.teacher_tap]  # (B, C_t, H, W), constant
        f_s = self.projector(step.student[o.student_tap])
        if f_s.shape[-2:] != f_t.shape[-2:]:
            f_s = F.interpolate(f_s, f_t.shape[-2:], mode="bilinear", align_corners=False)
        losses = [
            distance(o.distance, self.rows_of(x_s), self.rows_of(x_t), o.temperature)
            for x_s, x_t in zip(self.pieces(f_s), self.pieces(f_t), strict=True)
        ]
        return torch.stack(losses).mean()

    def pieces(self, maps: Tensor) -> Iterator[Tensor]:
        for scaled in scales(maps) if self.options.multi_scale else (maps,):
            yield from patches(scaled) if self.options.local else (scaled,)

    def rows_of(self, maps: Tensor) -> Tensor:
        o = self.options
        x = transformed(o.transform, maps)
        return as_scores(x, o.transform, o.softmax) if o.distance == "kl" else as_rows(x, o.transform)

    def of_logits(self, step: Step) -> Tensor:
        """`kl` times T^2, of the rows' softmax; the other distances compare the probabilities themselves."""
        o = self.options
        z_s, z_t = (full(step.rows(each["logits"])) / o.temperature for each in (step.student, step.teacher))  # (N, K)
        target = likely(step.truth(), z_t)
        a_s, a_t = parts(o.part, z_s, target), parts(o.part, z_t, target)
        if o.distance == "kl":
            return distance("kl", a_s, a_t, 1.0) * o.temperature**2
        return distance(o.distance, a_s.softmax(1), a_t.softmax(1), 1.0)
