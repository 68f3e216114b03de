"""Synaptic flow (Tanaka et al., NeurIPS 2020, arXiv 2006.05467) as a score (Abdelfattah et al., ICLR 2021): ln sum |w dR/dw|.

R = sum of the outputs for an input of ones, weights |w|, norms and biases left out, so that all values are >= 0 and
sum w dR/dw is R's derivative along the weights themselves: of R(s |w|) by the scalar s at 1, in float64.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from kdsearch.kinds import Batch, Model, NoOptions, Probe, Proxy
from kdsearch.ops.init import NORMS, WEIGHTED

RECTIFIERS = (nn.GELU, nn.SiLU, nn.Hardswish, nn.Mish, nn.ReLU6, nn.Hardtanh)  # the identity for large inputs
GATES = (nn.Sigmoid, nn.Hardsigmoid)  # 1 for large inputs
FAINT = 1e-290


class SynFlow(Proxy[NoOptions]):
    """ln of synaptic flow; -inf: nothing flows, or more than 10^580.

    Flow is linear in the input and in the gradient of the output, so where it overflows both are made fainter.
    """

    needs_data = False

    def score(self, student: Model, probe: Probe) -> float:
        dummy = probe.task.dummy(probe.io, 1, torch.Generator().manual_seed(0)).to(device_of(student.module))
        ones = {name: torch.ones_like(x).double() if x.is_floating_point() else x for name, x in dummy.tensors.items()}
        flowing = replace(student, module=linearised(student.module))
        for faint in (1.0, FAINT):
            scaled = {name: x * faint if x.is_floating_point() else x for name, x in ones.items()}
            value = flow(flowing, probe, Batch(dummy.ids, scaled), faint)
            if math.isfinite(value):
                return math.log(value) - 2 * math.log(faint) if value > 0 else -math.inf
        return -math.inf


def linearised(module: nn.Module) -> nn.Module:
    """A float64 copy whose norms are the identity and whose activations are their limit for large inputs."""
    shadow = copy.deepcopy(module).double()
    for parent in list(shadow.modules()):
        for name, part in list(parent.named_children()):
            if isinstance(part, (*NORMS, *RECTIFIERS)):
                setattr(parent, name, nn.Identity())
            elif isinstance(part, GATES):
                setattr(parent, name, Open())
    return shadow


class Open(nn.Module):
    """A gate that lets all through."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.ones_like(x)


def flow(model: Model, probe: Probe, ones: Batch, of_output: float) -> float:
    """of_output * sum w dR/dw over the weights of convolutions and linear layers, of a `linearised` model."""
    along = torch.ones((), dtype=torch.float64, requires_grad=True)
    shadow = copy.deepcopy(model.module).eval()
    for part in shadow.modules():
        if isinstance(part, WEIGHTED):
            weight = part._parameters.pop("weight")
            assert weight is not None
            part.weight = weight.detach().abs() * along
            if part.bias is not None:
                part.bias.detach().zero_()
    out = probe.task.call(replace(model, module=shadow), ones)
    total = torch.stack([value.sum() for value in out.values() if value.is_floating_point()]).sum()
    if not total.requires_grad:
        return 0.0
    return float(torch.autograd.grad(total, along, torch.full_like(total, of_output))[0])


def device_of(module: nn.Module) -> torch.device:
    return next((weight.device for weight in module.parameters()), torch.device("cpu"))
