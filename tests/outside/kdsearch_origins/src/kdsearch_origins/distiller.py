"""Distiller `blinded`: the student answers part of a sample as the teacher answers all of it."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field as Option
from torch import Tensor
from torch.nn import functional as F

from kdsearch.kinds import Distiller, Options, Step, TapShapes, searched
from kdsearch.kit.modalities import is_present, may_lack, without


class BlindedOptions(Options):
    temperature: Annotated[float, searched(low=1.0, high=4.0)] = Option(2.0, gt=0, description="softens both answers")


class Blinded(Distiller[BlindedOptions]):
    """Term `part`: KL divergence, times T^2, of the answer to a sample that lacks one of its modalities, drawn evenly.

    A sample that has one alone keeps it.
    """

    term_names = ("part",)

    def build(self, shapes: TapShapes) -> None:
        self.names = may_lack(shapes.student.model.inputs)

    def terms(self, step: Step) -> dict[str, Tensor]:
        batch, t = step.batch, self.options.temperature
        names = self.names
        had = torch.stack([is_present(batch, name) for name in names], 1).cpu()  # (B, M)
        drawn = torch.stack([torch.rand(len(names), generator=step.rng_of(sample)) for sample in batch.ids])
        lost = F.one_hot((drawn * had).argmax(1), len(names)).bool() & (had.sum(1, keepdim=True) > 1)
        for i, name in enumerate(names):
            batch = without(batch, name, lost[:, i])
        log_p_s = (step.run("student", batch)["logits"] / t).log_softmax(1)
        p_t = (step.teacher["logits"] / t).softmax(1)
        return {"part": t * t * F.kl_div(log_p_s, p_t, reduction="batchmean")}
