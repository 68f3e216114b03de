"""Distiller `angle`: the student's centred logits point where the teacher's do, whatever their length."""

from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from kdsearch.kinds import Distiller, Options, Step, searched


class AngleOptions(Options):
    power: Annotated[float, searched(low=0.5, high=2.0)] = Field(1.0, gt=0, description="of 1 - cosine, in [0, 2]")


class Angle(Distiller[AngleOptions]):
    """Term `angle`: mean over samples of (1 - cos)^power, 0 where both point alike."""

    def terms(self, step: Step) -> dict[str, Tensor]:
        z_s, z_t = step.student["logits"], step.teacher["logits"]  # (B, K), the teacher's constant
        cos = F.cosine_similarity(z_s - z_s.mean(1, keepdim=True), z_t - z_t.mean(1, keepdim=True), eps=1e-6)
        return {"angle": (1 - cos).clamp(min=1e-12).pow(self.options.power).mean()}
