"""Synaptic flow (Tanaka et al., NeurIPS 2020, arXiv 2006.05467) as a score (Abdelfattah et al., ICLR 2021): ln sum |w dR/dw|.

R = sum of the outputs for inputs of ones and weights |w|. Without norms and biases all values are >= 0, so that the sum is R's
derivative along the weights themselves, which for y = W x is sum y dR/dy: no gradient by a weight is taken. One sample, in
float64, forwards and backwards to the products, on the module as it stands.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdsearch.kinds import Batch, Model, NoOptions, Probe, Proxy
from kdsearch.ops.undisturbed import undisturbed
from kdsearch.ops.weights import differentiable, gradients
from kdsearch_plugins.zero_cost.linear_flow import linear_flow
from kdsearch_plugins.zero_cost.loss import device_of_model, finite
from kdsearch_plugins.zero_cost.tokens import continuous, is_mask

FAINT = 1e-290


class SynFlow(Proxy[NoOptions]):
    """ln of synaptic flow; -inf: nothing flows, or more than 10^580.

    Flow is linear in the input and in the gradient of the output, so where it overflows both are made fainter.
    """

    needs_data = False

    def score(self, student: Model, probe: Probe) -> float:
        ones = ones_for(student, probe, 1)
        for faint in (1.0, FAINT):
            value = flow(student, probe, ones, faint)
            if math.isfinite(value):
                return math.log(value) - 2 * math.log(faint) if value > 0 else -math.inf
        return -math.inf


def flow(student: Model, probe: Probe, ones: Batch, faint: float) -> float:
    """sum w dR/dw over the weight matrices, for inputs and a gradient of R that are `faint` times as large."""
    inputs = {name: level(probe, name, ones[name], faint) for name in continuous(student, probe, ones)}
    with undisturbed(student.module, train=False), linear_flow(student.module, faint) as (mode, weights):
        out = probe.task.call(student, ones.having(**inputs))
        ends = [value for value in out.values() if value.requires_grad]
        at = [*mode.products, *weights]
        slopes = (
            torch.autograd.grad(ends, at, [torch.full_like(end, faint) for end in ends], allow_unused=True)
            if ends
            else ()
        )
    return sum(float((x.detach() * slope).sum()) for x, slope in zip(at, slopes, strict=False) if slope is not None)


class SynFlowBn(Proxy[NoOptions]):
    """ln of sum |w dR/dw| with norms kept, in train mode, as released under this name; activations are what they are.

    A weight before a batch norm moves R by turning, not by growing, so this needs the backward pass, on a float64 copy.
    """

    needs_data = False

    def score(self, student: Model, probe: Probe) -> float:
        shadow = student.copy()
        shadow.module.double()
        with torch.no_grad():
            for weight in shadow.module.parameters():
                weight.abs_()
        ones = ones_for(student, probe, 2)  # two equal samples: a batch norm of vectors needs two, and R doubles
        with differentiable(shadow.module) as leaves:
            out = probe.task.call(shadow, ones)
            total = torch.stack([value.sum() for value in out.values() if value.is_floating_point()]).sum()
            found = gradients(total, leaves)
            value = sum(float((leaves[path].detach() * found[path]).abs().sum()) for path in leaves)
        return finite(math.log(value / 2)) if value > 0 and math.isfinite(value) else -math.inf


def ones_for(student: Model, probe: Probe, n: int) -> Batch:
    """n equal samples: ones where inputs are continuous, float64, and in masks; ids as the task draws them."""
    drawn = probe.task.dummy(probe.io, 1, torch.Generator().manual_seed(0)).to(device_of_model(student))

    def filled(name: str, x: Tensor) -> Tensor:
        if x.is_floating_point():
            x = level(probe, name, x.double(), 1.0)
        elif is_mask(probe, name):
            x = torch.ones_like(x)
        return x.repeat(n, *[1] * (x.dim() - 1))

    return Batch(tuple(str(i) for i in range(n)), {name: filled(name, x) for name, x in drawn.tensors.items()})


def level(probe: Probe, name: str, x: Tensor, size: float) -> Tensor:
    """Like x, filled with what networks read as `size`: numbers in units of their own are standardised first."""
    field = next((each for each in probe.io.inputs if each.name == name and each.mean), None)
    filled = torch.full_like(x, size)
    return filled if field is None else filled * x.new_tensor(field.std) + x.new_tensor(field.mean)
