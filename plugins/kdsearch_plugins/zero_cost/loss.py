"""The task's loss of a random student on the probe's batch, and its gradient by the weights, shared by several scores."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdsearch.kinds import HIDDEN, Batch, Model, Outputs, Probe
from kdsearch.ops.weights import differentiable, gradients


def finite(value: float) -> float:
    """The value; -inf, the worst rank, for NaN and both infinities: a network that is dead or has exploded."""
    return value if math.isfinite(value) else -math.inf


def labelled(probe: Probe) -> Batch:
    """The probe's batch; targets that it lacks or that are hidden altogether are drawn, the same for all candidates."""

    def make() -> Batch:
        inputs = {each.name for each in probe.io.inputs}
        drawn = probe.task.dummy(probe.io, len(probe.batch), probe.rng).tensors
        new = {name: tensor for name, tensor in drawn.items() if name not in inputs and is_unknown(probe.batch, name)}
        return probe.batch.having(**{name: tensor.to(device_of(probe.batch)) for name, tensor in new.items()})

    return probe.once("zero_cost.labelled", make)


def is_unknown(batch: Batch, name: str) -> bool:
    return name not in batch or (not batch[name].is_floating_point() and bool((batch[name] == HIDDEN).all()))


def device_of(batch: Batch) -> torch.device:
    return next((tensor.device for tensor in batch.tensors.values()), torch.device("cpu"))


def device_of_model(student: Model) -> torch.device:
    return next((weight.device for weight in student.module.parameters()), torch.device("cpu"))


def batch_loss(student: Model, probe: Probe, batch: Batch, temperature: float = 1.0) -> Tensor:
    """The task's loss (scalar, with graph) of the outputs divided by `temperature`."""
    out = probe.task.call(student, batch)
    scaled = {name: each / temperature if each.is_floating_point() else each for name, each in out.items()}
    return probe.task.loss(Outputs(scaled, owner=student.name), batch)


def weight_gradients(student: Model, probe: Probe) -> dict[str, Tensor]:
    """dL/dw of each weight matrix, in train mode on the whole batch: one forward and one backward pass a candidate."""

    def make() -> dict[str, Tensor]:
        with differentiable(student.module) as leaves:
            return gradients(batch_loss(student, probe, labelled(probe)), leaves)

    return probe.shared(student, "zero_cost.gradients", make)
