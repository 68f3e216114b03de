"""Zen-score (Lin et al., Zen-NAS, ICCV 2021, arXiv 2102.01063): how far features move under noise, batch norms undone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from kdsearch.errors import TapError
from kdsearch.kinds import Batch, Model, Options, Probe, Proxy, Tap, searched
from kdsearch.ops.init import gaussian_init
from kdsearch.ops.record import passing
from kdsearch.ops.undisturbed import undisturbed
from kdsearch_plugins.zero_cost.loss import device_of_model, finite
from kdsearch_plugins.zero_cost.tokens import continuous, in_units, looked_up


class ZenOptions(Options):
    gamma: Annotated[float, searched(low=1e-3, high=1e-1, log=True)] = Field(
        0.01, gt=0, description="size of the noise that is added to the noise"
    )
    repeats: Annotated[int, searched(1, 4, 32)] = Field(
        1, ge=1, le=64, description="initialisations to average over; 32 in the released stand-alone script"
    )
    samples: int = Field(32, ge=2, le=1024, description="of noise")
    variance: Literal["running", "batch"] = Field(
        "running",
        description="of a batch norm: the running one after both passes, as released, or the batch's, as in the paper",
    )


class Zen(Proxy[ZenOptions]):
    """ln mean_b sum |f(x) - f(x + gamma e)| + sum over batch norms of ln sqrt(mean variance); x, e from N(0, 1).

    f: the last stage, before pooling; `penultimate` where there is no stage, else the outputs. Token ids are drawn, and x is
    what the network looks up for them. Two forward passes a repeat.
    """

    needs_data = False
    init = "gaussian"

    def score(self, student: Model, probe: Probe) -> float:
        rng = probe.rng
        scores = [self.once(student, probe, rng)]
        if self.options.repeats > 1:
            again = student.copy()
            for _ in range(self.options.repeats - 1):
                gaussian_init(again.module, rng)
                scores.append(self.once(again, probe, rng))
        return finite(sum(scores) / len(scores))

    def once(self, student: Model, probe: Probe, rng: Generator) -> float:
        noise = probe.task.dummy(probe.io, self.options.samples, rng).to(device_of_model(student))
        norms = [part for part in student.module.modules() if isinstance(part, _BatchNorm)]
        momentum = 1.0 if self.options.variance == "batch" else None
        with undisturbed(student.module), remembering(norms, momentum):
            f = features(student, probe, noise, 0.0, rng)
            moved = features(student, probe, noise, self.options.gamma, rng)
            distance = (f - moved).double().abs().flatten(1).sum(1).mean()
            variances = [norm.running_var.double().mean() for norm in norms if norm.running_var is not None]
        return float(distance.log() + sum((v.sqrt().log() for v in variances), torch.zeros(())))


def features(student: Model, probe: Probe, noise: Batch, gamma: float, rng: Generator) -> Tensor:
    """f(x + gamma e), (B, ...); e in standard deviations of a field that has units of its own."""

    def noised(x: Tensor, name: str = "") -> Tensor:
        return x + gamma * in_units(probe, name, torch.randn(x.shape, generator=rng).to(x)) if gamma else x

    kept: list[Tensor] = []

    def keep(path: str, given: Tensor) -> None:
        kept.append(given.clone())  # a rectifier in place may follow

    tap = last_tap(student)
    xs = {name: noised(noise[name], name) for name in continuous(student, probe, noise)}
    paths = [tap.path] if tap else []
    side = tap.side if tap else "output"
    with (
        torch.random.fork_rng(devices=[]),  # dropout leaves out the same both times
        looked_up(student, noise, noised),
        passing(student.module, paths, keep, side),
    ):
        out = probe.task.call(student, noise.having(**xs))
    return kept[-1] if kept else next(value for value in out.values() if value.is_floating_point())


def last_tap(student: Model) -> Tap | None:
    """The last stage, else what the classifier reads, else None."""
    for name in ("stage[-1]", "penultimate"):
        try:
            return student.tap(name)
        except TapError:
            continue
    return None


@contextmanager
def remembering(norms: Sequence[_BatchNorm], momentum: float | None) -> Iterator[None]:
    """Batch norms with this momentum for a while: 1.0 makes the running statistics those of the last batch."""
    before = [(norm, norm.momentum) for norm in norms]
    try:
        for norm in norms:
            norm.momentum = norm.momentum if momentum is None else momentum
        yield
    finally:
        for norm, was in before:
            norm.momentum = was
