"""From outside: two papers that change one thing of a distillation each, a loss or the schedule, in about ten lines each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pydantic import Field
from torch import Tensor

from kdsearch.hooks import Register, hookimpl
from kdsearch.kinds import Optim, Phase, Schedule, Setup, Step
from kdsearch.kit.distillation import Distillation, DistillOptions


class ConfidentOptions(DistillOptions):
    entropy: float = Field(0.1, ge=0, description="weight of the entropy of the student's answers")


class Confident(Distillation[ConfidentOptions]):
    """Entropy minimisation beside the recipe (Grandvalet and Bengio, NeurIPS 2004): unlabelled samples are answered surely."""

    def terms(self, step: Step, setup: Setup) -> dict[str, Tensor]:
        log_probs = step.rows(step.student["logits"]).log_softmax(1)  # (N, K)
        return {**super().terms(step, setup), "entropy": -(log_probs.exp() * log_probs).sum(1).mean()}

    def weights(self, setup: Setup) -> Mapping[str, float]:
        return {"entropy": self.options.entropy}


class Restarted(Distillation[DistillOptions]):
    """Twice half of the length, each from a learning rate of its own down to 0; the second without the teachers."""

    def phases(self, setup: Setup) -> Iterator[Phase]:
        half = max(setup.epochs // 2, 1)
        yield self.phase(setup, "first", half)
        yield self.phase(setup, "second", half, weights=dict.fromkeys(setup.distillers, 0.0), normalize=False)
        self.finish(setup)

    def optims(self, setup: Setup) -> Sequence[Optim]:
        return [setup.optim(self.trains(setup), schedule=Schedule("polynomial", power=2.0, warmup=0.1))]


@hookimpl
def kdsearch_register(register: Register) -> None:
    register.procedure("confident", "kdsearch_papers:Confident", about="a distillation with one loss more")
    register.procedure("restarted", "kdsearch_papers:Restarted", about="a distillation with a schedule of its own")
