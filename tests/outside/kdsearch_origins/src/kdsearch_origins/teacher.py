"""Teacher `experts`: naive Bayes over every modality, also over the body's words, which no student reads."""

from __future__ import annotations

import torch
from pydantic import Field as Option
from torch import Tensor, nn
from torch.nn import functional as F

from kdsearch.kinds import IO, Access, Model, Options, Services, Teacher

WORDS, NUMBERS = ("doc", "args", "body"), ("shape",)
INPUTS = (*WORDS, *(f"{name}_mask" for name in WORDS), *NUMBERS, "present_shape")


class ExpertsOptions(Options):
    scale: float = Option(
        0.3, gt=0, description="of each expert's log-likelihoods: they are too sure, as if words came alone"
    )
    smoothing: float = Option(0.2, gt=0, description="added to every word's count in a class")


class Experts(Teacher[ExpertsOptions]):
    """Fitted to the labelled samples once for all of the study's processes; what a sample lacks adds nothing."""

    access = Access.LOGITS

    def model(self, io: IO, services: Services) -> Model:
        fitted = services.once("counts", lambda: self.fit(services, io.outputs[0].sizes[0]))
        return Model(Bayes(fitted, self.options.scale), INPUTS, name="experts")

    def fit(self, services: Services, k: int) -> dict[str, Tensor]:
        split = services.data.split("labeled")
        batch = split.load(range(len(split.ids)))
        of = F.one_hot(batch["label"], k).double()  # (N, K)
        found = {}
        for name in WORDS:
            n = next(each.n_values for each in services.data.fields if each.name == name) or 1
            counts = torch.zeros(len(batch), n, dtype=torch.float64)
            counts.scatter_add_(1, batch[name], (batch[f"{name}_mask"] != 0).double())
            seen = counts.mT @ of + self.options.smoothing  # (V, K)
            found[name] = (seen / seen.sum(0)).log().float()
        has = of * batch["present_shape"].double()[:, None]
        mean = has.mT @ batch["shape"].double() / has.sum(0)[:, None].clamp(min=1)  # (K, D)
        far = (batch["shape"].double()[:, None] - mean).square() * has[..., None]
        return {**found, "mean": mean.float(), "var": (far.sum((0, 1)) / has.sum() + 0.01).float()}


class Bayes(nn.Module):
    """The inputs -> log-likelihoods (B, K) of the classes, all equally likely beforehand."""

    def __init__(self, fitted: dict[str, Tensor], scale: float) -> None:
        super().__init__()
        self.scale = scale
        for name, value in fitted.items():
            self.register_parameter(name, nn.Parameter(value, requires_grad=False))

    def forward(self, *inputs: Tensor) -> Tensor:
        given = dict(zip(INPUTS, inputs, strict=True))
        total = torch.zeros(len(inputs[0]), self.mean.shape[0], device=inputs[0].device)  # type: ignore[union-attr,operator]
        for name in WORDS:
            table, counts = getattr(self, name), (given[f"{name}_mask"] != 0)[..., None]
            total = total + (F.embedding(given[name], table) * counts).sum(1)
        far = (given["shape"][:, None] - self.mean).square() / self.var  # type: ignore[operator]
        return self.scale * (total - 0.5 * far.sum(2) * (given["present_shape"] != 0)[:, None])
