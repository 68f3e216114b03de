"""DisWOT as a score (Dong et al., CVPR 2023, arXiv 2303.15678): one forward pass of the student, no backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from kdsearch.errors import PluginError, TapError
from kdsearch.kinds import Model, Options, Probe, Proxy, searched
from kdsearch_plugins.diswot.reference import rank_sum, z_sum
from kdsearch_plugins.diswot.scores import (
    MAP,
    SEMANTIC,
    VECTOR,
    activation_shape,
    relation_score,
    semantic_score,
)

Init = Literal["gaussian", "kaiming"]
Score = Literal["mr", "ms", "sum", "ranksum", "zsum"]
RELATIVE = {"ranksum": rank_sum, "zsum": z_sum}


class TermOptions(Options):
    init: Annotated[Init, searched("gaussian", "kaiming")] = Field(
        "gaussian", description="of student and teacher; kaiming = as the search space builds them"
    )


class RelationOptions(TermOptions):
    stages: Annotated[int, searched(1, 2, 3)] = Field(
        1, ge=1, description="how many of the last stages M_r is summed over; the paper's is the last alone"
    )


class SemanticOptions(TermOptions):
    semantic: Literal["fc_grad", "cam_map"] = Field(
        "fc_grad",
        description="what M_s compares: the classifier's gradient, or the classes' activation maps (of any widths)",
    )


class DiswotOptions(RelationOptions, SemanticOptions):
    score: Score = Field(
        "sum",
        description="sum = M_r + M_s as in the paper; ranksum, zsum = sum of their log ranks or z-scores in a sample of the space",
    )


class Diswot(Proxy[DiswotOptions]):
    """M_r + M_s; M_r alone for the whole study, saying so in `note`, where M_s is undefined somewhere in the space.

    M_s is larger than M_r by orders of magnitude, so the plain sum ranks almost as M_s; `ranksum` and `zsum` weigh them alike.
    """

    needs_teacher = True

    def __init__(self, options: DiswotOptions) -> None:
        super().__init__(options)
        self.init = host_init(options.init)
        self.kind: Score = options.score
        self.needs_classes = options.score == "ms"
        self.reference: list[tuple[float, float]] = []

    def taps(self) -> Sequence[str]:
        maps = () if self.kind == "ms" else stage_taps(self.options.stages)
        return maps if self.kind == "mr" else (*maps, *semantic_taps(self.options))

    def fit(self, sample: Sequence[Model], probe: Probe) -> None:
        """Raise TapShapeError or TapError where `score: ms` is asked for and undefined."""
        semantic = self.options.semantic
        if self.kind == "ms":
            refuse(sample, probe, semantic)
        elif self.kind != "mr" and (reason := undefined(sample, probe, semantic)):
            self.kind, self.note = "mr", f"M_r alone: M_s is undefined, as {reason}"
        if self.kind in RELATIVE:
            self.reference = [self.terms(model, probe) for model in sample]

    def terms(self, student: Model, probe: Probe) -> tuple[float, float]:
        """(M_r, M_s)."""
        m_r = relation_score(student, probe, stage_taps(self.options.stages))
        return m_r, SEMANTIC[self.options.semantic](student, probe)

    def score(self, student: Model, probe: Probe) -> float:
        if self.kind == "mr":
            return relation_score(student, probe, stage_taps(self.options.stages))
        if self.kind == "ms":
            return SEMANTIC[self.options.semantic](student, probe)
        terms = self.terms(student, probe)
        if self.kind == "sum":
            return sum(terms)
        if not self.reference:
            raise PluginError(
                f"diswot with 'score: {self.kind}' has no reference", fix="Call fit(sample, probe) first."
            )
        return RELATIVE[self.kind](terms, self.reference)


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


class DiswotMs(Proxy[SemanticOptions]):
    """M_s alone; with `fc_grad` student and teacher must be equally wide before the classifier."""

    needs_teacher = True
    needs_classes = True

    def __init__(self, options: SemanticOptions) -> None:
        super().__init__(options)
        self.init = host_init(options.init)

    def taps(self) -> Sequence[str]:
        return semantic_taps(self.options)

    def fit(self, sample: Sequence[Model], probe: Probe) -> None:
        """Raise TapShapeError or TapError, naming the network, where M_s of one of the sample is undefined."""
        refuse(sample, probe, self.options.semantic)

    def score(self, student: Model, probe: Probe) -> float:
        return SEMANTIC[self.options.semantic](student, probe)


def host_init(init: Init) -> str:
    return "gaussian" if init == "gaussian" else "default"


def stage_taps(stages: int) -> tuple[str, ...]:
    """The last `stages` stages, counted from the end, as student and teacher may have different numbers of them."""
    return tuple(f"stage[{-i}]" for i in range(stages, 0, -1))


def semantic_taps(options: SemanticOptions) -> tuple[str, ...]:
    return (VECTOR,) if options.semantic == "fc_grad" else (MAP,)


def odd_widths(sample: Sequence[Model], probe: Probe) -> list[Model]:
    """Those that are not as wide as the teacher before the classifier."""
    teacher = probe.teacher_model
    return [] if teacher is None else [model for model in sample if model.width(VECTOR) != teacher.width(VECTOR)]


def refuse(sample: Sequence[Model], probe: Probe, semantic: str) -> None:
    if semantic == "fc_grad":
        for model in odd_widths(sample, probe)[:1]:
            semantic_score(model, probe)  # raises, naming both widths
        return
    for model in with_teacher(sample, probe):
        activation_shape(model)


def undefined(sample: Sequence[Model], probe: Probe, semantic: str) -> str:
    """Why M_s is undefined in this space; "" where it is defined."""
    teacher = probe.teacher_model
    if not probe.io.has_classes:
        return f"the task answers {', '.join(each.name for each in probe.io.outputs)}, and no logit a class"
    try:
        if semantic == "cam_map":
            for model in with_teacher(sample, probe):
                activation_shape(model)
            return ""
        odd = odd_widths(sample, probe)
    except TapError as error:
        return error.problem
    if odd and teacher is not None:
        return f"'{odd[0].name}' is {odd[0].width(VECTOR)} wide before the classifier and the teacher {teacher.width(VECTOR)}"
    return ""


def with_teacher(sample: Sequence[Model], probe: Probe) -> list[Model]:
    return [*sample, *([probe.teacher_model] if probe.teacher_model is not None else [])]
