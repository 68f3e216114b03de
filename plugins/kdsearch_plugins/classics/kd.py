"""Distilling the knowledge in a neural network (Hinton et al., NIPS workshop 2014, arXiv 1503.02531): soft targets.

L = T^2 KL(softmax(z_t / T) || softmax(z_s / T)). The paper gives the hard targets "a considerably lower weight" without a
figure; `paper_weights` is 0.9, to be used with `task_weight: 0.1`, as the benchmarks of the field do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor

from kdsearch.kinds import Distiller, Options, Step, TapShapes, searched
from kdsearch.ops.softened import softened_kl
from kdsearch_plugins.classics.cifar import CIFAR
from kdsearch_plugins.classics.of_classes import require_logits


class KdOptions(Options):
    temperature: Annotated[float, searched(low=1.0, high=20.0, log=True)] = Field(
        4.0, gt=0, description="T: above 1 the small probabilities count more"
    )


class Kd(Distiller[KdOptions]):
    """Term `kl`, in nats times T^2; of a map or sequence of logits the mean over the positions that count."""

    paper_weights: ClassVar[Mapping[str, float]] = {"kl": 0.9}
    paper_recipe: ClassVar[Mapping[str, Any]] = {"task_weight": 0.1, "train": CIFAR}

    def build(self, shapes: TapShapes) -> None:
        """Raise TapShapeError for a task without logits of classes, naming what fits it."""
        require_logits("kd", shapes)

    def terms(self, step: Step) -> dict[str, Tensor]:
        z_s, z_t = step.rows(step.student["logits"]), step.rows(step.teacher["logits"])  # (N, K)
        return {"kl": softened_kl(z_s, z_t, self.options.temperature)}
