"""DisWOT as a score (Dong et al., CVPR 2023, arXiv 2303.15678): one forward pass of the student, no backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from kdsearch.errors import PluginError, TapError
from kdsearch.kinds import Model, Options, Probe, Proxy, searched
from kdsearch.ops.init import gaussian_init
from kdsearch.ops.ranks import log_ranks
from kdsearch_plugins.diswot.scores import LOGITS, VECTOR, relation_score, semantic_score

Init = Literal["gaussian", "kaiming"]


class TermOptions(Options):
    init: Annotated[Init, searched("gaussian", "kaiming")] = Field(
        "gaussian", description="of student and teacher; kaiming = as the search space builds them"
    )


class RelationOptions(TermOptions):
    stages: Annotated[int, searched(1, 2, 3)] = Field(
        1, ge=1, description="how many of the last stages M_r is summed over; the paper's is the last alone"
    )


class DiswotOptions(RelationOptions):
    score: Literal["mr", "ms", "sum", "ranksum"] = Field(
        "sum",
        description="sum = M_r + M_s as in the paper; ranksum = sum of their log ranks among a sample of the space",
    )
    semantic: Literal["fc_grad"] = Field("fc_grad", description="what M_s compares: the classifier's gradient")


class Diswot(Proxy[DiswotOptions]):
    """M_r + M_s; M_r alone for the whole study, saying so in `note`, where M_s is undefined somewhere in the space.

    M_s is larger than M_r by orders of magnitude, so the plain sum ranks almost as M_s; `ranksum` weighs them alike.
    """

    needs_teacher = True

    def __init__(self, options: DiswotOptions) -> None:
        super().__init__(options)
        self.init = host_init(options.init)
        self.kind: str = options.score
        self.reference: tuple[Tensor, Tensor] | None = None

    def taps(self) -> Sequence[str]:
        maps = stage_taps(self.options.stages) if self.kind != "ms" else ()
        return maps if self.kind == "mr" else (*maps, VECTOR)

    def fit(self, sample: Sequence[Model], probe: Probe) -> None:
        """Raise TapShapeError where `score: ms` is asked for and undefined."""
        reason = undefined(sample, probe) if self.kind in ("sum", "ranksum") else ""
        if reason:
            self.kind = "mr"
            self.note = f"M_r alone: M_s is undefined, as {reason}"
        if self.kind == "ms":
            refuse(odd_widths(sample, probe), probe)
        if self.kind == "ranksum":
            models = [initialised(model, self.init, seed) for seed, model in enumerate(sample)]
            terms = torch.tensor([self.terms(model, probe) for model in models], dtype=torch.float64)
            self.reference = (terms[:, 0], terms[:, 1])

    def terms(self, student: Model, probe: Probe) -> tuple[float, float]:
        """(M_r, M_s)."""
        return relation_score(student, probe, stage_taps(self.options.stages)), semantic_score(student, probe)

    def score(self, student: Model, probe: Probe) -> float:
        if self.kind == "mr":
            return relation_score(student, probe, stage_taps(self.options.stages))
        if self.kind == "ms":
            return semantic_score(student, probe)
        terms = self.terms(student, probe)
        if self.kind == "sum":
            return sum(terms)
        if self.reference is None:
            raise PluginError("diswot with 'score: ranksum' has no reference", fix="Call fit(sample, probe) first.")
        pairs = zip(terms, self.reference, strict=True)
        return sum(float(log_ranks(torch.tensor([term]), reference)) for term, reference in pairs)


class DiswotMr(Proxy[RelationOptions]):
    """M_r alone; any widths of student and teacher."""

    needs_teacher = True

    def __init__(self, options: RelationOptions) -> None:
        super().__init__(options)
        self.init = host_init(options.init)

    def taps(self) -> Sequence[str]:
        return stage_taps(self.options.stages)

    def score(self, student: Model, probe: Probe) -> float:
        return relation_score(student, probe, self.taps())


class DiswotMs(Proxy[TermOptions]):
    """M_s alone; student and teacher must be equally wide before the classifier."""

    needs_teacher = True

    def __init__(self, options: TermOptions) -> None:
        super().__init__(options)
        self.init = host_init(options.init)

    def taps(self) -> Sequence[str]:
        return (VECTOR,)

    def fit(self, sample: Sequence[Model], probe: Probe) -> None:
        """Raise TapShapeError, naming both widths, where one of the sample has another width than the teacher."""
        refuse(odd_widths(sample, probe), probe)

    def score(self, student: Model, probe: Probe) -> float:
        return semantic_score(student, probe)


def host_init(init: Init) -> str:
    return "gaussian" if init == "gaussian" else "default"


def stage_taps(stages: int) -> tuple[str, ...]:
    """The last `stages` stages, counted from the end, as student and teacher may have different numbers of them."""
    return tuple(f"stage[{-i}]" for i in range(stages, 0, -1))


def odd_widths(sample: Sequence[Model], probe: Probe) -> list[Model]:
    """Those that are not as wide as the teacher before the classifier."""
    teacher = probe.teacher_model
    return [] if teacher is None else [model for model in sample if model.width(VECTOR) != teacher.width(VECTOR)]


def refuse(odd: Sequence[Model], probe: Probe) -> None:
    for model in odd[:1]:
        semantic_score(model, probe)  # raises, naming both widths


def undefined(sample: Sequence[Model], probe: Probe) -> str:
    """Why M_s is undefined in this space; "" where it is defined."""
    try:
        odd = odd_widths(sample, probe)
    except TapError as error:
        return error.problem
    teacher = probe.teacher_model
    if odd and teacher is not None:
        return f"'{odd[0].name}' is {odd[0].width(VECTOR)} wide before the classifier and the teacher {teacher.width(VECTOR)}"
    out = probe.teacher
    return "the logits are no vectors" if out is not None and out[LOGITS].dim() != 2 else ""


def initialised(model: Model, init: str, seed: int) -> Model:
    """The model, or a Gaussian copy of it: the reference is drawn as the candidates are, however the sample was built."""
    if init != "gaussian":
        return model
    copied = model.copy()
    gaussian_init(copied.module, torch.Generator().manual_seed(seed))
    return copied
